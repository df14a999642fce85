//! Availability for writers: the longest time without an acknowledged write.

use super::register::Acked;
use crate::record::FaultRecord;

/// What is felt of a fault later than this is not laid to it.
const FELT_NS: u64 = 10_000_000_000;

/// The longest silence of all, and the longest from each fault until the next.
pub(crate) fn told(acked: &[Acked], faults: &[FaultRecord]) -> String {
    let acked_ns: Vec<_> = acked.iter().map(|write| write.at_ns).collect();
    let Some(longest) = longest(&acked_ns, 0, u64::MAX) else {
        return "fewer than two writes were acknowledged".into();
    };
    let mut text = format!(
        "longest time without an acknowledged write: {} ms",
        ms(longest)
    );
    for (number, fault) in faults.iter().enumerate() {
        let next = faults
            .get(number + 1)
            .map_or(u64::MAX, |next| next.boottime_ns);
        let until = next.min(fault.boottime_ns + FELT_NS);
        if let Some(silent) = self::longest(&acked_ns, fault.boottime_ns, until) {
            text.push_str(&format!("; {}: {}", fault.what, ms(silent)));
        }
    }
    text
}

/// Longest time between one acknowledgement and the next, of those that touch `from..until`.
/// `acked_ns` ascends.
fn longest(acked_ns: &[u64], from: u64, until: u64) -> Option<u64> {
    let gaps = acked_ns.windows(2).map(|pair| (pair[0], pair[1]));
    let touching = gaps.filter(|(begin, end)| *end > from && *begin < until);
    touching.map(|(begin, end)| end - begin).max()
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_belongs_to_the_fault_in_it() {
        let acked = [1, 2, 10, 11, 14].map(|s: u64| Acked {
            at_ns: s * 1_000_000_000,
            index: s,
            key: "k".into(),
            value: None,
        });
        let fault = |at_ns| FaultRecord {
            boottime_ns: at_ns,
            what: "kill -9".into(),
            node: Some(0),
        };
        let faults = [
            fault(2_500_000_000),
            fault(10_500_000_000),
            fault(20_000_000_000),
        ];
        let text = told(&acked, &faults);
        let wanted =
            "longest time without an acknowledged write: 8000 ms; kill -9: 8000; kill -9: 3000";
        assert_eq!(text, wanted);
        assert!(told(&acked[..1], &faults).starts_with("fewer"));
    }
}
