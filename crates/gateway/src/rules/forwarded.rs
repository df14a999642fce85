//! What an instance is told of its client (RFC 7239, Knative's runtime contract).

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// One hop, as this gateway saw it.
#[derive(Debug, Clone)]
pub struct Hop {
    pub client: IpAddr,
    pub is_trusted: bool,
    proto: &'static str,
    /// `client` as text, and as a node of RFC 7239.
    address: HeaderValue,
    node: String,
    port: HeaderValue,
}

/// IPv6 is bracketed and therefore quoted (RFC 7239 §6).
fn node_of(address: &str) -> String {
    match address.contains(':') {
        true if address.starts_with('[') => format!("\"{address}\""),
        true => format!("\"[{address}]\""),
        false => address.to_owned(),
    }
}

impl Hop {
    pub fn new(client: IpAddr, is_trusted: bool, is_tls: bool, port: u16) -> Self {
        let client = client.to_canonical();
        let text = client.to_string();
        Self {
            client,
            is_trusted,
            proto: if is_tls { "https" } else { "http" },
            node: node_of(&text),
            address: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown")),
            port: HeaderValue::from(port),
        }
    }

    /// This hop's element of `Forwarded`.
    pub fn element(&self, host: &HeaderValue) -> Option<HeaderValue> {
        let host = host.to_str().ok()?;
        let is_token = !host.bytes().any(|b| matches!(b, b':' | b'[' | b']'));
        let quote = if is_token { "" } else { "\"" };
        let (node, proto) = (&self.node, self.proto);
        HeaderValue::try_from(format!(
            "for={node};host={quote}{host}{quote};proto={proto}"
        ))
        .ok()
    }

    /// Replaces what an untrusted peer may not say, extends what a trusted one did.
    pub fn write(&self, headers: &mut HeaderMap, host: &HeaderValue, element: HeaderValue) {
        let proto = HeaderValue::from_static(self.proto);
        if !self.is_trusted {
            // The untrusted ones were removed before.
            headers.insert(FOR, self.address.clone());
            headers.insert(PROTO, proto);
            headers.insert(HOST, host.clone());
            headers.insert(PORT, self.port.clone());
            headers.insert(FORWARDED, element);
            return;
        }
        let before = join(headers, &FOR);
        if !headers.contains_key(FORWARDED)
            && let Some(earlier) = before.as_deref().and_then(elements_of)
        {
            headers.insert(FORWARDED, earlier);
        }
        append(headers, FORWARDED, &element);
        append(headers, FOR, &self.address);
        for (name, value) in [(PROTO, &proto), (HOST, host), (PORT, &self.port)] {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// All lines of a list as one.
fn join(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let joined = join(headers, &name).and_then(|before| {
        let after = value.to_str().ok()?;
        HeaderValue::try_from(format!("{before}, {after}")).ok()
    });
    headers.insert(name, joined.unwrap_or_else(|| value.clone()));
}

/// The hops of an `X-Forwarded-For`, as elements; `None` if one is not an address.
fn elements_of(list: &str) -> Option<HeaderValue> {
    let elements: Option<Vec<String>> = list
        .split(',')
        .map(|hop| {
            let address: IpAddr = hop.trim().parse().ok()?;
            Some(format!("for={}", node_of(&address.to_string())))
        })
        .collect();
    HeaderValue::try_from(elements?.join(", ")).ok()
}

/// A range of peers that are believed: `10.0.0.0/8`, `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

impl Cidr {
    /// # Errors
    /// What an entry must look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address range like `10.0.0.0/8`");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = if network.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse::<u8>().ok().filter(|bits| *bits <= all),
            None => Some(all),
        };
        let bits = bits.ok_or_else(wrong)?;
        Ok(Self { network, bits })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                let head = |ip: std::net::Ipv4Addr| ip.to_bits().checked_shr(shift).unwrap_or(0);
                head(network) == head(address)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                let head = |ip: std::net::Ipv6Addr| ip.to_bits().checked_shr(shift).unwrap_or(0);
                head(network) == head(address)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(hop: &Hop, before: &[(&'static str, &'static str)], host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let host = HeaderValue::from_str(host).unwrap();
        let element = hop.element(&host).unwrap();
        hop.write(&mut headers, &host, element);
        headers
    }

    #[test]
    fn a_stranger_is_described_by_what_was_seen() {
        let hop = Hop::new([10, 0, 0, 7].into(), false, false, 8080);
        let headers = written(&hop, &[], "a.b:8080");
        assert_eq!(headers["x-forwarded-for"], "10.0.0.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "a.b:8080");
        assert_eq!(headers["x-forwarded-port"], "8080");
        let forwarded = "for=10.0.0.7;host=\"a.b:8080\";proto=http";
        assert_eq!(headers["forwarded"], forwarded);
        let hop = Hop::new("2001:db8::1".parse().unwrap(), false, true, 8443);
        let headers = written(&hop, &[], "a.b");
        let forwarded = "for=\"[2001:db8::1]\";host=a.b;proto=https";
        assert_eq!(headers["forwarded"], forwarded);
    }

    #[test]
    fn a_trusted_peers_word_is_extended() {
        let hop = Hop::new([10, 0, 0, 7].into(), true, false, 80);
        let before = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "::1"),
            ("x-forwarded-proto", "https"),
        ];
        let headers = written(&hop, &before, "a");
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, ::1, 10.0.0.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        let forwarded = "for=1.2.3.4, for=\"[::1]\", for=10.0.0.7;host=a;proto=http";
        assert_eq!(headers["forwarded"], forwarded);
        let headers = written(&hop, &[("forwarded", "for=_x")], "a");
        assert_eq!(
            headers["forwarded"],
            "for=_x, for=10.0.0.7;host=a;proto=http"
        );
    }

    #[test]
    fn ranges_hold_their_addresses() {
        let is_in = |range: &str, address: &str| {
            Cidr::parse(range)
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(is_in("10.0.0.0/8", "10.9.9.9") && !is_in("10.0.0.0/8", "11.0.0.1"));
        assert!(is_in("0.0.0.0/0", "1.2.3.4") && is_in("127.0.0.1", "127.0.0.1"));
        assert!(is_in("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(is_in("2001:db8::/32", "2001:db8::5") && !is_in("::/0", "1.2.3.4"));
        for bad in ["", "10/8", "10.0.0.0/33", "::/129", "a", "1.1.1.1/"] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }
}
