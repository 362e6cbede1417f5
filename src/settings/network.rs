//! Networks of IP addresses, as settings name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A network: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// IPv4 addresses that are written as IPv6 (`::ffff:10.0.0.1`) are IPv4 addresses.
///
/// ```
/// use zinxide::Network;
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains([10, 1, 2, 3].into()));
/// assert!("10.0.0.0/33".parse::<Network>().is_err());
/// # Ok::<(), zinxide::BadNetwork>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write 10.0.0.0/8, 2001:db8::/32 or a single address")]
pub struct BadNetwork(String);

impl Network {
    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// The network of a single address.
    pub fn host(ip: IpAddr) -> Self {
        Self(ip.to_canonical().into())
    }

    /// What counts as one peer's address: a whole network of IPv6, of which a single peer has plenty.
    pub(crate) fn of_peer(ip: IpAddr, ipv6_prefix: u8) -> Self {
        match ip.to_canonical() {
            ip @ IpAddr::V4(_) => Self::host(ip),
            ip @ IpAddr::V6(_) => Self::around(ip, ipv6_prefix),
        }
    }

    /// The network of this many bits around an address; the address alone, if it has fewer.
    fn around(ip: IpAddr, prefix: u8) -> Self {
        IpNet::new(ip, prefix).map_or_else(|_| Self::host(ip), |net| Self(net.trunc()))
    }
}

/// A network of IPv4 addresses that is written as one of IPv6.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let v4 = v4.and_then(|(addr, prefix)| IpNet::new(addr.into(), prefix).ok());
    v4.unwrap_or(net)
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let text = text.trim();
        let network = match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Self::host(ip)),
            Err(_) => text.parse().map(|net: IpNet| Self(canonical(net.trunc()))),
        };
        network.map_err(|_| BadNetwork(text.to_owned()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
