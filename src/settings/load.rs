//! Settings from a file and the environment, with errors that say where to look.

use std::env;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::{ClientCert, Network, Settings, Unrouted, WhenFull, WhenWorkerLost, WhileDown};
use crate::codec::WireFormat;
use crate::conn::{OverRate, Overflow};
use crate::endpoint::Endpoint;
use crate::secret::{is_secret, shown, shown_path};

/// What environment variables that are settings begin with.
const PREFIX: &str = "ZINXIDE";

/// The settings that are lists.
const LISTS: [&str; 7] =
    ["allow", "deny", "listen", "proxy_from", "reserved_for", "ws_origins", "ws_subprotocols"];

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
        let values = file.collect().map_err(|source| SettingsError::File {
            file: shown_path(path),
            source: without_secrets(source),
        })?;
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

/// What is said of a value that nobody should read.
const LOOKS_SECRET: &str =
    "must not be what it is (not shown: it looks like a key or a certificate)";

/// Whether there is a key or a certificate in this value: a settings file or variable that was mixed up.
fn has_secret(kind: &ValueKind) -> bool {
    match kind {
        ValueKind::String(text) => is_secret(text),
        ValueKind::Array(items) => items.iter().any(|item| has_secret(&item.kind)),
        ValueKind::Table(table) => {
            table.iter().any(|(key, item)| is_secret(key) || has_secret(&item.kind))
        }
        _ => false,
    }
}

/// Errors about YAML may quote it.
fn without_secrets(error: ConfigError) -> ConfigError {
    if is_secret(&format!("{error} {error:?}")) {
        ConfigError::Message("it looks like a key or a certificate".to_owned())
    } else {
        error
    }
}

/// Finds variables that are no text, since the error of the config crate about them has the value.
fn check_unicode() -> Result<(), SettingsError> {
    for (name, value) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let key = name.to_lowercase();
        if let Some(key) = key.strip_prefix("zinxide_")
            && value.to_str().is_none()
        {
            let origin = format!("environment variable {name}");
            let reason = "must be text in UTF-8".to_owned();
            return Err(SettingsError::WrongType { key: key.to_owned(), origin, reason });
        }
    }
    Ok(())
}

/// The defaults by key: what keys there are, and of which kind.
fn defaults() -> Map<String, Value> {
    // Plain scalars with distinct names serialize to a map; a test loads them.
    let scalars = Config::try_from(&Settings::default()).and_then(|map| map.collect());
    let mut defaults = scalars.unwrap_or_default();
    // Of an empty list nothing is left there.
    for key in LISTS {
        defaults.insert(key.to_owned(), Value::new(None, ValueKind::Array(Vec::new())));
    }
    defaults
}

/// What a setting wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Number,
    Text,
    List,
}

impl Sort {
    fn of(kind: &ValueKind) -> Option<Self> {
        use ValueKind::{Array, I64, I128, String, U64, U128};
        match kind {
            I64(_) | I128(_) | U64(_) | U128(_) => Some(Self::Number),
            String(_) => Some(Self::Text),
            Array(_) => Some(Self::List),
            _ => None,
        }
    }

    fn described(self) -> &'static str {
        match self {
            Self::Number => "a whole number (digits alone)",
            Self::Text => "text",
            Self::List => "a list",
        }
    }
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
        check_unicode()?;
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
        let wants_number = self.sort_of(&key) == Some(Sort::Number);
        let kind = match text.trim().parse() {
            Ok(number) if wants_number => ValueKind::I64(number),
            _ => ValueKind::String(text.to_owned()),
        };
        self.set(key, kind, origin)
    }

    /// What the setting wants, if it is one.
    fn sort_of(&self, key: &str) -> Option<Sort> {
        Sort::of(&self.defaults.get(key)?.kind)
    }

    fn set(&mut self, key: String, kind: ValueKind, origin: String) -> Result<(), SettingsError> {
        let has_secret = has_secret(&kind);
        self.set_known(key, kind, origin).map_err(|error| match error {
            SettingsError::UnknownKey { key, origin } => {
                SettingsError::UnknownKey { key: shown(&key).to_owned(), origin }
            }
            SettingsError::WrongType { key, origin, .. } if has_secret => {
                SettingsError::WrongType { key, origin, reason: LOOKS_SECRET.to_owned() }
            }
            error => error,
        })
    }

    /// Errors quote the value.
    fn set_known(
        &mut self,
        key: String,
        mut kind: ValueKind,
        origin: String,
    ) -> Result<(), SettingsError> {
        let Some(wanted) = self.sort_of(&key) else {
            return Err(SettingsError::UnknownKey { key, origin });
        };
        if wanted == Sort::List
            && let ValueKind::String(text) = &kind
        {
            // A variable that was forgotten must not let everybody in.
            if text.trim().is_empty() {
                let reason = "must not be an empty text; write [] for none in a file".into();
                return Err(SettingsError::WrongType { key, origin, reason });
            }
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            kind = ValueKind::Array(items.map(|item| Value::new(None, item)).collect());
        }
        // The config crate would make 1 of `true` and 4 of 3.7.
        if Sort::of(&kind) != Some(wanted) {
            let reason = format!("must be {}, not {}", wanted.described(), described(&kind));
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
                let (origin, said) = blamed(key, &must, &origins);
                SettingsError::OutOfRange { key, must: must + &said, origin }
            }
            other => other,
        })?;
        Ok(settings)
    }
}

/// The setting that a key does not fit, if that is what is wrong with it: what it `must` be names the other
/// one then.
fn partner(key: &str, must: &str) -> Option<&'static str> {
    let partners: &[&'static str] = match key {
        "max_msg_chan_bytes" => &["max_packet_size"],
        "max_inbound_bytes" => &["max_packet_size", "frame_deadline_ms"],
        "rate_bytes" => &["rate_burst_ms"],
        "low_watermark_percent" => &["high_watermark_percent"],
        "reserved_conn" => &["max_conn"],
        "when_full" => &["reserved_conn"],
        "tls_cert" | "tls_key" | "tls_client_ca" | "ws_origins" | "ws_subprotocols" => &["listen"],
        _ => &[],
    };
    partners.iter().copied().find(|partner| must.contains(partner))
}

/// Who made the value of `key` one that makes no sense, and what is to be said of the setting that it
/// must fit.
fn blamed(key: &str, must: &str, origins: &Map<String, String>) -> (Option<String>, String) {
    let own = origins.get(key);
    let Some(partner) = partner(key, must) else { return (own.cloned(), String::new()) };
    let other = origins.get(partner);
    let said = match (own, other) {
        (Some(own), Some(other)) if own == other => String::new(),
        (Some(_), Some(other)) => format!("; `{partner}` is from {other}"),
        (None, Some(_)) => format!("; `{key}` is the default"),
        (Some(_), None) => format!("; `{partner}` is the default"),
        (None, None) => String::new(),
    };
    // A default can be too small for what another key was set to.
    (own.or(other).cloned(), said)
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
                "overflow" | "broadcast_overflow" => Overflow::deserialize(text).err(),
                "over_rate" => OverRate::deserialize(text).err(),
                "when_full" => WhenFull::deserialize(text).err(),
                "while_handler_down" => WhileDown::deserialize(text).err(),
                "tls_client_cert" => ClientCert::deserialize(text).err(),
                "when_worker_lost" => WhenWorkerLost::deserialize(text).err(),
                _ => None,
            };
            error.map(|error| error.to_string())
        }
        ValueKind::Array(items) => items.iter().find_map(|item| match &item.kind {
            ValueKind::String(text) if key == "listen" => {
                Some(text.parse::<Endpoint>().err()?.to_string())
            }
            ValueKind::String(text) => Some(text.parse::<Network>().err()?.to_string()),
            other => {
                let what = match key {
                    "listen" => "endpoints",
                    "ws_origins" | "ws_subprotocols" => "texts",
                    _ => "networks",
                };
                Some(format!("must be a list of {what}, not of {}", described(other)))
            }
        }),
        ValueKind::I64(number) if *number < 0 => {
            Some(format!("must not be negative, as {number} is"))
        }
        number => Some(format!("{number} is too large")),
    }
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
