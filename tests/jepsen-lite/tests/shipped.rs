//! The binary that is shipped has no failpoints and no planted bugs: its text does not even name them.

use nihilo_failpoint::{BUG_ENV, DIR_ENV, Point};
use nihilo_jepsen_lite::probe;

#[test]
fn the_shipped_binary_has_no_failpoints() {
    let Ok(binary) = probe::binary() else {
        eprintln!("skipped: no `nihilo` is built");
        return;
    };
    let bytes = std::fs::read(&binary).expect("a readable binary");
    // As text: the standard library's search is fast in a debug build too.
    let bytes = String::from_utf8_lossy(&bytes);
    assert!(bytes.contains("NIHILO_LOG"), "not our binary");
    for text in [DIR_ENV, BUG_ENV, Point::DemandReceived.as_str()] {
        assert!(!bytes.contains(text), "`{text}` is in {}", binary.display());
    }
}
