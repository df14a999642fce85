//! The PROXY protocol, versions 1 and 2 (haproxy's `doc/proxy-protocol.txt`): what a load balancer
//! says of the client before the client's first byte.
//!
//! Exactly the header is read, so that nothing has to be given back. It is mandatory where it is
//! configured, and never guessed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line of version 1, with its line end.
const MAX_V1: usize = 107;
const V1: &[u8; 6] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_HEAD: usize = 16;
/// Addresses and TLVs, at most: what a sane balancer sends with room to spare.
const MAX_V2: usize = 2_048;

/// Client and server as the balancer saw them; `None` = it speaks for itself.
pub type Ends = Option<(SocketAddr, SocketAddr)>;

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one header.
///
/// # Errors
/// There is none, or it is not valid: the connection is of no use.
pub async fn read(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Ends> {
    let mut header = vec![0; V1.len()];
    socket.read_exact(&mut header).await?;
    if header == V1 {
        while !header.ends_with(b"\n") {
            if header.len() == MAX_V1 {
                return Err(invalid("a PROXY line without end"));
            }
            header.push(socket.read_u8().await?);
        }
        return parse_v1(&header).ok_or_else(|| invalid("an invalid PROXY line"));
    }
    if header != V2[..V1.len()] {
        return Err(invalid("no PROXY header"));
    }
    header.resize(V2_HEAD, 0);
    socket.read_exact(&mut header[V1.len()..]).await?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > MAX_V2 {
        return Err(invalid("a PROXY header of too many bytes"));
    }
    header.resize(V2_HEAD + length, 0);
    socket.read_exact(&mut header[V2_HEAD..]).await?;
    parse_v2(&header).ok_or_else(|| invalid("an invalid PROXY header"))
}

/// `PROXY TCP4 client server client-port server-port CRLF`, or `PROXY UNKNOWN … CRLF`.
/// `None` = not valid.
pub fn parse_v1(line: &[u8]) -> Option<Ends> {
    let line = line.strip_suffix(b"\r\n")?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    if words.next()? != "PROXY" {
        return None;
    }
    let is_v4 = match words.next()? {
        "TCP4" => true,
        "TCP6" => false,
        "UNKNOWN" => return Some(None),
        _ => return None,
    };
    let mut address = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        (address.is_ipv4() == is_v4).then_some(address)
    };
    let (from, to) = (address()?, address()?);
    let mut port = || {
        let port = words.next()?;
        let is_plain = port == "0" || !port.starts_with(['0', '+']);
        is_plain.then(|| port.parse::<u16>().ok()).flatten()
    };
    let (from_port, to_port) = (port()?, port()?);
    let ends = (
        SocketAddr::new(from, from_port),
        SocketAddr::new(to, to_port),
    );
    words.next().is_none().then_some(Some(ends))
}

/// The binary form, whole. `None` = not valid.
pub fn parse_v2(header: &[u8]) -> Option<Ends> {
    let rest = header.strip_prefix(V2)?;
    let (head, body) = rest.split_at_checked(4)?;
    if body.len() != usize::from(u16::from_be_bytes([head[2], head[3]])) {
        return None;
    }
    let is_proxied = match head[0] {
        0x20 => false,
        0x21 => true,
        _ => return None,
    };
    let (ends, n_addresses) = match head[1] {
        0x00 => (None, 0),
        0x11 | 0x12 => (Some(v4_ends(body)?), 12),
        0x21 | 0x22 => (Some(v6_ends(body)?), 36),
        0x31 | 0x32 => (None, 216),
        _ => return None,
    };
    let tlvs = body.get(n_addresses..)?;
    // LOCAL is the balancer's own health check: its addresses, if any, say nothing.
    are_tlvs(tlvs).then_some(ends.filter(|_| is_proxied))
}

fn port_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]))
}

fn v4_ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = |at: usize| {
        let octets: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    let from = SocketAddr::new(address(0)?, port_at(body, 8)?);
    Some((from, SocketAddr::new(address(4)?, port_at(body, 10)?)))
}

fn v6_ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = |at: usize| {
        let octets: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let from = SocketAddr::new(address(0)?, port_at(body, 32)?);
    Some((from, SocketAddr::new(address(16)?, port_at(body, 34)?)))
}

/// Type, length, value, to the very end.
fn are_tlvs(mut tlvs: &[u8]) -> bool {
    while !tlvs.is_empty() {
        let Some((head, rest)) = tlvs.split_at_checked(3) else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let Some((_, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        tlvs = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(from: &str, to: &str) -> Option<Ends> {
        Some(Some((from.parse().unwrap(), to.parse().unwrap())))
    }

    #[test]
    fn lines_of_version_1() {
        for (line, want) in [
            (
                "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n",
                ends("1.2.3.4:1000", "5.6.7.8:80"),
            ),
            ("PROXY TCP6 ::1 ::2 1 2\r\n", ends("[::1]:1", "[::2]:2")),
            ("PROXY UNKNOWN\r\n", Some(None)),
            ("PROXY UNKNOWN ff:f::1 x 1 2\r\n", Some(None)),
            ("PROXY TCP4 ::1 ::2 1 2\r\n", None),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n", None),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000 80 x\r\n", None),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 01000 80\r\n", None),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 65536 80\r\n", None),
            ("PROXY TCP4  1.2.3.4 5.6.7.8 1 80\r\n", None),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\n", None),
            ("PROXY UDP4 1.2.3.4 5.6.7.8 1000 80\r\n", None),
        ] {
            assert_eq!(parse_v1(line.as_bytes()), want, "{line}");
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&V2[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0x03, 0xe8, 0, 80];
        let seen = ends("1.2.3.4:1000", "5.6.7.8:80");
        assert_eq!(parse_v2(&v2(0x21, 0x11, &v4)), seen);
        let with_tlv = [&v4[..], &[4, 0, 2, 9, 9]].concat();
        assert_eq!(parse_v2(&v2(0x21, 0x11, &with_tlv)), seen);
        assert_eq!(parse_v2(&v2(0x20, 0x11, &v4)), Some(None));
        assert_eq!(parse_v2(&v2(0x20, 0, &[])), Some(None));
        let torn_tlv = [&v4[..], &[4, 0, 9, 1]].concat();
        for bad in [
            v2(0x21, 0x11, &v4[..11]),
            v2(0x21, 0x11, &torn_tlv),
            v2(0x31, 0x11, &v4),
            v2(0x22, 0x11, &v4),
            v2(0x21, 0x41, &v4),
            v2(0x21, 0x11, &v4)[..20].to_vec(),
        ] {
            assert_eq!(parse_v2(&bad), None, "{bad:x?}");
        }
    }

    #[tokio::test]
    async fn exactly_the_header_is_read() {
        let mut bytes = &b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\nGET /"[..];
        assert!(read(&mut bytes).await.unwrap().is_some());
        assert_eq!(bytes, b"GET /");
        let whole = [v2(0x20, 0, &[]), b"GET /".to_vec()].concat();
        let mut bytes = &whole[..];
        assert_eq!(read(&mut bytes).await.unwrap(), None);
        assert_eq!(bytes, b"GET /");
        for bad in ["GET / HTTP/1.1\r\n", "PROXY ", "PROX", &"PROXY ".repeat(30)] {
            assert!(read(&mut bad.as_bytes()).await.is_err(), "{bad}");
        }
    }
}
