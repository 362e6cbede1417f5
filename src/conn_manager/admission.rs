//! Who may connect: limits of number, and networks.

use std::collections::HashMap;
use std::net::IpAddr;

use super::attempts::Attempts;
use crate::conn::ConnId;
use crate::settings::{Network, Settings, WhenFull};

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// `max_conn` connections are there already, or all but the reserved places are taken.
    #[error("the server is full: {max_conn} connections{}", less(*.reserved))]
    Full {
        /// The limit.
        max_conn: usize,
        /// How many places of these are kept from this peer.
        reserved: usize,
    },
    /// `max_conn_per_ip` connections come from that address already, or from that network of IPv6.
    #[error("{max} connections come from {from}")]
    TooManyOfIp {
        /// The address or network.
        from: Network,
        /// The limit.
        max: usize,
    },
    /// That address, or that network of IPv6, connects more often than `rate_connects_per_ip` and
    /// `rate_connects_burst` allow.
    #[error("{from} connects more than {per_second} times a second")]
    TooFast {
        /// The address or network.
        from: Network,
        /// The rate.
        per_second: u32,
    },
    /// The address is in a network of `deny`, or in none of `allow`.
    #[error("{0} is not allowed")]
    Denied(IpAddr),
    /// The peer is a balancer of `proxy_from`, and there is no good header of the PROXY protocol.
    #[error("no good PROXY header: {0}")]
    NoProxyHeader(&'static str),
    /// The server is about to stop.
    #[error("the server drains")]
    Draining,
    /// A connection with this id is there already.
    #[error("connection {0} was added before")]
    Duplicate(ConnId),
    /// The connection ended before it was added.
    #[error("connection {0} is closed already")]
    Closed(ConnId),
}

fn less(reserved: usize) -> String {
    if reserved == 0 { String::new() } else { format!(", {reserved} of them reserved") }
}

/// The rules, and what they have to count.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(super) max_conn: usize,
    reserved: usize,
    reserved_for: Vec<Network>,
    allow: Vec<Network>,
    deny: Vec<Network>,
    max_per_ip: usize,
    ipv6_prefix: u8,
    connects_per_second: u32,
    /// `None` if that is not limited.
    attempts: Option<Attempts>,
    /// A dial that finds no place waits for one, and is then asked for once more.
    waits: bool,
    /// How many connections come from where; nothing, if that is not limited. Peers choose the keys,
    /// so they are hashed with a key of our own.
    of_ip: HashMap<Network, usize>,
}

impl Admission {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            max_conn: settings.max_conn,
            reserved: settings.reserved_conn,
            reserved_for: settings.reserved_for.clone(),
            allow: settings.allow.clone(),
            deny: settings.deny.clone(),
            max_per_ip: settings.max_conn_per_ip,
            ipv6_prefix: settings.ipv6_prefix,
            connects_per_second: settings.rate_connects_per_ip,
            attempts: Attempts::new(settings.rate_connects_per_ip, settings.rate_connects_burst),
            waits: settings.when_full == WhenFull::Wait,
            of_ip: HashMap::new(),
        }
    }

    /// Whether a peer may connect, beside `len` others. It has made one more attempt to, unless it waits
    /// for a place.
    pub(super) fn check(&mut self, peer: IpAddr, len: usize) -> Result<(), AddError> {
        let peer = peer.to_canonical();
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(peer));
        if is_in(&self.deny) || !(self.allow.is_empty() || is_in(&self.allow)) {
            return Err(AddError::Denied(peer));
        }
        let (from, max) = (self.origin(peer), self.max_per_ip);
        let reserved = if is_in(&self.reserved_for) { 0 } else { self.reserved };
        let full = len >= self.max_conn.saturating_sub(reserved);
        if let Some(attempts) = &mut self.attempts
            && !(full && self.waits)
            && !attempts.pay(from)
        {
            return Err(AddError::TooFast { from, per_second: self.connects_per_second });
        }
        if self.of_ip.get(&from).is_some_and(|&there| there >= max) {
            return Err(AddError::TooManyOfIp { from, max });
        }
        if full {
            return Err(AddError::Full { max_conn: self.max_conn, reserved });
        }
        Ok(())
    }

    /// Whether there is a place for anybody, beside `len` connections.
    pub(super) fn has_vacancy(&self, len: usize) -> bool {
        len < self.max_conn.saturating_sub(self.reserved)
    }

    pub(super) fn enter(&mut self, peer: IpAddr) {
        if self.max_per_ip > 0 {
            *self.of_ip.entry(self.origin(peer)).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, peer: IpAddr) {
        let from = self.origin(peer);
        if let Some(there) = self.of_ip.get_mut(&from) {
            *there -= 1;
            if *there == 0 {
                self.of_ip.remove(&from);
            }
        }
    }

    fn origin(&self, peer: IpAddr) -> Network {
        Network::of_peer(peer, self.ipv6_prefix)
    }
}
