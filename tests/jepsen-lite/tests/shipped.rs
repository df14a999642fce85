//! The binary that is shipped has no failpoints and no planted bugs: its text does not even name them.

use nihilo_failpoint::{BUG_ENV, DIR_ENV, Point};
use nihilo_jepsen_lite::probe;

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[test]
fn the_shipped_binary_has_no_failpoints() {
    let Ok(binary) = probe::binary() else {
        eprintln!("skipped: no `nihilo` is built");
        return;
    };
    let bytes = std::fs::read(&binary).expect("a readable binary");
    assert!(contains(&bytes, "NIHILO_LOG"), "not our binary");
    for text in [DIR_ENV, BUG_ENV, Point::DemandReceived.as_str()] {
        assert!(
            !contains(&bytes, text),
            "`{text}` is in {}",
            binary.display()
        );
    }
}
