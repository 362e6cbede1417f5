//! Which layers a server puts on which endpoint: the one place that knows all of them.

use std::sync::Arc;

#[cfg(feature = "tls")]
use rustls::crypto::CryptoProvider;

#[cfg(feature = "tls")]
use super::tls::{ServerTls, TlsError, credentials::default_provider};
#[cfg(feature = "ws")]
use super::ws::{Rules, ServerWs};
use super::{Layer, Stack};
#[cfg(feature = "ws")]
use crate::codec::FrameCodec;
use crate::endpoint::Endpoint;
#[cfg(feature = "tls")]
use crate::settings::Settings;

/// What the stacks of a server are made of.
#[derive(Default)]
pub(crate) struct Layers {
    #[cfg(feature = "tls")]
    tls: Option<Arc<ServerTls>>,
    #[cfg(feature = "ws")]
    ws: Option<(Rules, FrameCodec)>,
}

impl Layers {
    /// With certificates, if any endpoint needs them.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(
        mut self,
        settings: &Settings,
        provider: Option<Arc<CryptoProvider>>,
    ) -> Result<Self, TlsError> {
        if settings.endpoints().iter().any(|endpoint| endpoint.scheme.has_tls()) {
            let provider = provider.unwrap_or_else(default_provider);
            self.tls = Some(Arc::new(ServerTls::new(settings, provider)?));
        }
        Ok(self)
    }

    #[cfg(feature = "ws")]
    pub(crate) fn with_ws(mut self, rules: Rules, codec: FrameCodec) -> Self {
        self.ws = Some((rules, codec));
        self
    }

    /// What is spoken at this endpoint. The settings are checked for what there is not.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ws")),
        expect(unused_variables, unused_mut, clippy::unused_self, reason = "nothing but TCP")
    )]
    pub(crate) fn stack(&self, endpoint: &Endpoint) -> Stack {
        let mut layers = Vec::<Arc<dyn Layer>>::new();
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls
            && endpoint.scheme.has_tls()
        {
            layers.push(Arc::clone(tls) as _);
        }
        #[cfg(feature = "ws")]
        if let Some((rules, codec)) = &self.ws
            && endpoint.scheme.has_ws()
        {
            layers.push(Arc::new(ServerWs::new(&endpoint.path, rules.clone(), codec.clone())));
        }
        Stack::new(layers)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.tls.as_ref()
    }
}
