//! Host names as clients may write them (RFC 9110 §7.2, RFC 3986 §3.2.2), and as tables know them.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Longest name of the DNS, with its dots.
const MAX_NAME: usize = 253;

/// Whether `host` is a name or an address with an optional port from 1 to 65535. Names are
/// letters, digits, `-`, `.` and `_`: no percent-encoding, no user information.
pub fn is_valid(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let port = port.strip_prefix(':');
        return address.parse::<Ipv6Addr>().is_ok()
            && (rest.ends_with(']') || port.is_some_and(is_port));
    }
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !name.is_empty()
        && name.len() <= MAX_NAME + 1
        && name.bytes().all(is_name_byte)
        && port.is_none_or(is_port)
}

/// RFC 3986 allows an empty port, which means the scheme's own.
fn is_port(port: &str) -> bool {
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    port.is_empty() || (digits && port.len() <= 5 && port.parse::<u16>().is_ok_and(|n| n > 0))
}

/// The key of a table: lower case, without port and one trailing dot. Borrows where it can.
pub fn table_key(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[') {
        Some(_) => host
            .rsplit_once(']')
            .map_or(host, |(name, _)| &host[..=name.len()]),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_a_real_port() {
        for good in [
            "a", "a.b", "A.b.", "a:1", "a:65535", "a:", "1.2.3.4", "[::1]", "[::1]:80", "a_b.c",
        ] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "", ":80", "a:0", "a:65536", "a:000080", "a:8a", "u@h", "h/x", "h\tx", "h x", "[::1",
            "::1", "[::1]x", "[::1]:0", "[g::1]", "h#", "h?", "a,b", "a%2eb", "a:1:2", "é.b",
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
        assert!(!is_valid(&"a".repeat(300)));
    }

    #[test]
    fn keys_are_lower_case_without_port_and_dot() {
        for (host, key) in [
            ("EXAMPLE.com.:8080", "example.com"),
            ("a.b", "a.b"),
            ("a.b:80", "a.b"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(table_key(host), key);
        }
    }
}
