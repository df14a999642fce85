//! HTTP/2 frames by hand (RFC 9113 §4, RFC 7541).

use crate::case::unescape;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

const KINDS: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

fn index_of(names: &[&str], name: &str) -> Option<u32> {
    let at = names.iter().position(|known| *known == name)?;
    u32::try_from(at).ok()
}

pub fn kind(name: &str) -> u8 {
    let by_name = index_of(&KINDS, name).and_then(|at| u8::try_from(at).ok());
    by_name.unwrap_or_else(|| name.parse().expect("a frame type"))
}

pub fn code(name: &str) -> u32 {
    index_of(&CODES, name).unwrap_or_else(|| name.parse().expect("an error code"))
}

pub fn code_name(code: u32) -> String {
    let name = usize::try_from(code).ok().and_then(|at| CODES.get(at));
    name.map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

pub fn flags(text: &str) -> u8 {
    let flag = |name: &str| match name {
        "-" => 0,
        "END_STREAM" | "ACK" => 1,
        "END_HEADERS" => 4,
        "PADDED" => 8,
        "PRIORITY" => 32,
        number => number.parse().expect("a flag"),
    };
    text.split('+').map(flag).fold(0, |sum, flag| sum | flag)
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a small frame")
        .to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

fn payload(text: &str) -> Vec<u8> {
    let Some(hex) = text.strip_prefix("hex:") else {
        return unescape(text);
    };
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |two: &[char]| {
        let two: String = two.iter().collect();
        u8::from_str_radix(&two, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(byte).collect()
}

/// `TYPE FLAGS STREAM TEXT`
pub fn parse_frame(text: &str) -> Vec<u8> {
    parse_frames(1, text)
}

pub fn parse_frames(n: u32, text: &str) -> Vec<u8> {
    let mut words = text.splitn(4, ' ');
    let mut next = || words.next().unwrap_or("").to_owned();
    let (kind, flags, stream, text) = (kind(&next()), flags(&next()), next(), next());
    // `N*BYTE`: a payload of N equal bytes.
    let payload = match text.split_once('*') {
        Some((n, byte)) if n.parse::<usize>().is_ok() => {
            unescape(byte).repeat(n.parse().expect("a number"))
        }
        _ => payload(&text),
    };
    let stream = |k: u32| match stream.as_str() {
        "next" => 2 * k + 1,
        number => number.parse().expect("a stream"),
    };
    (0..n)
        .flat_map(|k| frame(kind, flags, stream(k), &payload))
        .collect()
}

/// A literal field that no table keeps (RFC 7541 §6.2.2).
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let string = |bytes: &[u8]| {
        let mut coded = Vec::new();
        match u8::try_from(bytes.len()).ok().filter(|n| *n < 127) {
            Some(n) => coded.push(n),
            None => {
                coded.push(127);
                let mut rest = bytes.len() - 127;
                while rest >= 128 {
                    coded.push(u8::try_from(rest % 128).expect("seven bits") | 128);
                    rest /= 128;
                }
                coded.push(u8::try_from(rest).expect("seven bits"));
            }
        }
        coded.extend_from_slice(bytes);
        coded
    };
    [vec![0], string(name), string(value)].concat()
}

/// `STREAM FLAGS NAME=VALUE …`
pub fn parse_headers(text: &str, host: &str) -> Vec<u8> {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let stream: u32 = words.next().expect("a stream").parse().expect("a stream");
    let flags = flags(words.next().expect("flags"));
    let mut block = Vec::new();
    for word in words {
        let pseudo = |method: &str| {
            [
                field(b":method", method.as_bytes()),
                field(b":scheme", b"http"),
                field(b":path", b"/"),
                field(b":authority", host.as_bytes()),
            ]
            .concat()
        };
        match word {
            "GET" | "POST" => block.extend(pseudo(word)),
            _ => {
                // The first `=` after the first character: names may begin with a colon only.
                let (name, value) = word.split_once('=').expect("NAME=VALUE");
                let value = match value.split_once('*') {
                    Some((n, text)) if n.parse::<usize>().is_ok() => {
                        unescape(text).repeat(n.parse().expect("a number"))
                    }
                    _ => unescape(&value.replace("HOST", host)),
                };
                block.extend(field(&unescape(name), &value));
            }
        }
    }
    frame(HEADERS, flags, stream, &block)
}
