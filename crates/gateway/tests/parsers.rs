//! The properties of the fuzz targets, on bytes that proptest makes.

#[path = "../fuzz/properties.rs"]
mod properties;

use proptest::prelude::*;

/// Text that looks like `alphabet` and now and then like nothing.
fn bytes(alphabet: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop::sample::select(alphabet.as_bytes()), 0..60),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn hosts(bytes in bytes("abAB01.:[]-_@/%#f")) {
        properties::host(&bytes);
    }

    #[test]
    fn targets(bytes in bytes("/ab.%020?*:@#\\htp&=;~")) {
        properties::target(&bytes);
    }

    #[test]
    fn forwarding(bytes in bytes("for=1.2:3;,\"[]ab_ \n\n\n\n")) {
        properties::forwarded(&bytes);
    }

    #[test]
    fn proxy_lines(
        family in "TCP4|TCP6|UNKNOWN|TCP5",
        one in "[0-9.]{7,9}|[0-9a-f:]{2,8}",
        other in "[0-9.]{7,9}|[0-9a-f:]{2,8}",
        ports in "[0-9]{1,5} [0-9]{1,5}",
    ) {
        properties::proxy(format!("PROXY {family} {one} {other} {ports}\r\n").as_bytes());
    }

    #[test]
    fn proxy_bytes(
        command in prop::sample::select(vec![0x20_u8, 0x21, 0x22, 0x31]),
        family in prop::sample::select(vec![0_u8, 0x11, 0x12, 0x21, 0x31, 0x41]),
        body in prop::collection::vec(any::<u8>(), 0..60),
        lie in 0_u8..3,
    ) {
        let length = u16::try_from(body.len()).unwrap().wrapping_add(u16::from(lie) / 2);
        let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length.to_be_bytes()].concat();
        properties::proxy(&[head, body].concat());
    }
}
