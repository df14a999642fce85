//! C14: nobody is told to stop with a request in flight, unless its whole node ends.

use nihilo_sim::checker::{Evidence, Verdict};

use super::availability::Fault;
use super::verdict;
use crate::instance_ledger::{InstanceLine, Step};

pub(super) const NAME: &str = "C14 drain";

pub(super) fn check(lines: &[InstanceLine], faults: &[Fault]) -> Verdict {
    let (mut found, mut n_checked) = (Vec::new(), 0);
    for line in lines.iter().filter(|line| line.step == Step::Terminating) {
        n_checked += 1;
        // Around a fault a client's own connection may have ended first: the app still works on
        // what nobody waits for any more.
        let near = |fault: &Fault| fault.from_ns <= line.at_ns && line.at_ns <= fault.until_ns;
        if line.in_flight > 0 && !faults.iter().any(near) {
            let what = format!("told to stop with {} requests in flight", line.in_flight);
            found.push(Evidence::new(&line.instance, what).at(line.at_ns));
        }
    }
    if n_checked == 0 {
        let notes = vec!["no instance was told to stop".to_owned()];
        return verdict(found, lines.len() as u64, notes);
    }
    verdict(found, n_checked, Vec::new())
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;

    #[test]
    fn a_stop_with_requests_in_flight_is_found() {
        let line = |in_flight| InstanceLine {
            at_ns: 5,
            request: String::new(),
            instance: "i".into(),
            step: Step::Terminating,
            revision: "a-1".into(),
            in_flight,
        };
        assert_eq!(check(&[line(0)], &[]).class(), Class::Pass);
        assert_eq!(check(&[line(0), line(2)], &[]).class(), Class::Violation);
    }
}
