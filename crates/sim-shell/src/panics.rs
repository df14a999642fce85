//! C15: no panic anywhere. A task of a node that panics would end quietly otherwise.

use nihilo_sim::checker::{Evidence, Passed, Verdict, Violation};
use parking_lot::Mutex;

pub(crate) const NAME: &str = "C15 assertion";

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers every panic of this process from now on.
pub(crate) fn watch() {
    std::panic::set_hook(Box::new(|panic| {
        SEEN.lock().push(panic.to_string());
        eprintln!("{panic}");
    }));
}

/// A verdict on all of them.
pub(crate) fn judge() -> Verdict {
    let seen = SEEN.lock();
    if seen.is_empty() {
        return Verdict::Pass(Passed {
            n_checked: 1,
            notes: Vec::new(),
        });
    }
    let evidence = seen.iter().take(8);
    Verdict::Violation(Violation {
        n_found: seen.len() as u64,
        evidence: evidence
            .map(|text| Evidence::new("this process", text.clone()))
            .collect(),
    })
}
