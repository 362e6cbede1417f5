//! Settings from a file and the environment, with errors that say where to look.

use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::{Settings, Unrouted};
use crate::codec::WireFormat;

/// What environment variables that are settings begin with.
const PREFIX: &str = "ZINXIDE";

/// Why settings are no good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file is not there, cannot be read, or is no YAML.
    #[error("cannot read the settings file {file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A key that is no setting.
    #[error("{origin}: unknown setting `{key}`")]
    UnknownKey {
        /// The key.
        key: String,
        /// The file or environment variable that has it.
        origin: String,
    },
    /// A value that is not of the setting's type.
    #[error("{origin}: setting `{key}`: {reason}")]
    WrongType {
        /// The key.
        key: String,
        /// The file or environment variable that has it.
        origin: String,
        /// What is wrong with the value.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("{}setting `{key}` {must}", prefix(origin.as_deref()))]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What it must be.
        must: String,
        /// The file or environment variable that set it; `None` if neither did.
        origin: Option<String>,
    },
    /// The environment cannot be read.
    #[error("cannot read settings from the environment: {0}")]
    Environment(#[source] ConfigError),
}

fn prefix(origin: Option<&str>) -> String {
    origin.map(|origin| format!("{origin}: ")).unwrap_or_default()
}

impl Settings {
    /// The defaults, changed by the YAML file at `path`, changed by environment variables:
    /// `ZINXIDE_TCP_PORT=9000` and the like.
    ///
    /// # Errors
    ///
    /// [`SettingsError`], which names the key and the file. A file that is not there is an error;
    /// use [`from_env`](Self::from_env) to do without one.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, SettingsError> {
        let path = path.as_ref();
        let file = File::from(path).format(FileFormat::Yaml);
        let values = file
            .collect()
            .map_err(|source| SettingsError::File { file: path.to_owned(), source })?;
        Self::from_layers(Some((path.display().to_string(), values)))
    }

    /// The defaults, changed by environment variables.
    ///
    /// # Errors
    ///
    /// [`SettingsError`], which names the variable.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_layers(None)
    }
}

/// The defaults by key: what keys there are, and of which kind.
fn defaults() -> Map<String, Value> {
    // Plain scalars with distinct names serialize to a map; a test loads them.
    Config::try_from(&Settings::default()).and_then(|map| map.collect()).unwrap_or_default()
}

/// Builds settings from layers of values, later ones on top, and finds out who is to blame for
/// what does not fit: a key is checked alone, with the layer that it comes from.
struct Builder {
    defaults: Map<String, Value>,
    values: Map<String, Value>,
    origins: Map<String, String>,
}

impl Settings {
    fn from_layers(file: Option<(String, Map<String, Value>)>) -> Result<Self, SettingsError> {
        let mut builder = Builder { defaults: defaults(), values: Map::new(), origins: Map::new() };
        let environment = Environment::with_prefix(PREFIX);
        let variables = environment.collect().map_err(SettingsError::Environment)?;
        if let Some((origin, values)) = file {
            for (key, value) in values {
                builder.set(key, value.kind, origin.clone())?;
            }
        }
        for (key, value) in variables {
            let origin = format!("environment variable {PREFIX}_{}", key.to_uppercase());
            builder.set_from_text(key, &value.to_string(), origin)?;
        }
        builder.build()
    }
}

impl Builder {
    /// The environment knows only text: what is to be a number is read as one.
    fn set_from_text(
        &mut self,
        key: String,
        text: &str,
        origin: String,
    ) -> Result<(), SettingsError> {
        let wants_number = self.defaults.get(&key).is_some_and(|known| is_number(&known.kind));
        let kind = match text.trim().parse() {
            Ok(number) if wants_number => ValueKind::I64(number),
            _ => ValueKind::String(text.to_owned()),
        };
        self.set(key, kind, origin)
    }

    fn set(&mut self, key: String, kind: ValueKind, origin: String) -> Result<(), SettingsError> {
        let Some(default) = self.defaults.get(&key) else {
            return Err(SettingsError::UnknownKey { key, origin });
        };
        // The config crate would make 1 of `true` and 4 of 3.7.
        let fits = match (is_number(&default.kind), &kind) {
            (true, given) => is_number(given),
            (false, given) => matches!(given, ValueKind::String(_)),
        };
        if !fits {
            let wanted = if is_number(&default.kind) { "a whole number" } else { "text" };
            let reason = format!("must be {wanted}, not {}", described(&kind));
            return Err(SettingsError::WrongType { key, origin, reason });
        }
        let value = Value::new(None, kind);
        if let Err(error) = settings_of(Map::from_iter([(key.clone(), value.clone())])) {
            let reason = plain_reason(&key, &value.kind).unwrap_or_else(|| error.to_string());
            return Err(SettingsError::WrongType { key, origin, reason });
        }
        self.origins.insert(key.clone(), origin);
        self.values.insert(key, value);
        Ok(())
    }

    fn build(self) -> Result<Settings, SettingsError> {
        let Self { values, origins, .. } = self;
        let settings = settings_of(values).map_err(SettingsError::Environment)?;
        settings.validate().map_err(|error| match error {
            SettingsError::OutOfRange { key, must, .. } => {
                SettingsError::OutOfRange { key, must, origin: blamed(key, &origins) }
            }
            other => other,
        })?;
        Ok(settings)
    }
}

/// Who made the value of `key` one that makes no sense.
fn blamed(key: &str, origins: &Map<String, String>) -> Option<String> {
    // A default can be too small for what another key was set to.
    let cause = match key {
        "max_msg_chan_bytes" if !origins.contains_key(key) => "max_packet_size",
        _ => key,
    };
    origins.get(cause).cloned()
}

fn settings_of(values: Map<String, Value>) -> Result<Settings, ConfigError> {
    let mut builder = Config::builder();
    for (key, value) in values {
        builder = builder.set_override(key, value)?;
    }
    builder.build()?.try_deserialize()
}

/// What is wrong with a value of the right kind, in words that need no knowledge of Rust.
fn plain_reason(key: &str, kind: &ValueKind) -> Option<String> {
    type Plain = serde::de::value::Error;
    match kind {
        ValueKind::String(text) => {
            let text = text.as_str().into_deserializer();
            let error: Option<Plain> = match key {
                "wire_format" => WireFormat::deserialize(text).err(),
                "unrouted" => Unrouted::deserialize(text).err(),
                _ => None,
            };
            error.map(|error| error.to_string())
        }
        ValueKind::I64(number) if *number < 0 => {
            Some(format!("must not be negative, as {number} is"))
        }
        number => Some(format!("{number} is too large")),
    }
}

fn is_number(kind: &ValueKind) -> bool {
    use ValueKind::{I64, I128, U64, U128};
    matches!(kind, I64(_) | I128(_) | U64(_) | U128(_))
}

fn described(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Nil => "empty".to_owned(),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::String(text) => format!("{text:?}"),
        other => format!("`{other}`"),
    }
}
