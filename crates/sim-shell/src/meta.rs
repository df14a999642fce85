//! The same seed twice, in two processes: do both runs take the same way?

use std::ops::Range;
use std::process::ExitCode;

use crate::many::process;

/// Lines shown around the first difference.
const CONTEXT: usize = 10;

/// Runs each seed twice. A difference before the first fault is a leak of ours and fails; a later
/// one is reported.
pub(crate) fn meta(seeds: &Range<u64>) -> anyhow::Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let (mut n_early, mut n_late, mut n_seeds) = (0, 0, 0);
    for seed in seeds.clone() {
        n_seeds += 1;
        let mut traces = Vec::new();
        for copy in ["one", "two"] {
            let file = dir.path().join(copy);
            process(seed, &["--trace", &file.to_string_lossy()])?;
            traces.push(std::fs::read_to_string(&file)?);
        }
        let (one, two): (Vec<&str>, Vec<&str>) =
            (traces[0].lines().collect(), traces[1].lines().collect());
        let Some(at) = first_difference(&one, &two) else {
            println!("seed {seed}: {} lines, equal", one.len());
            continue;
        };
        let is_early = !one[..at].iter().any(|line| line.contains(" fault "));
        let when = if is_early {
            "BEFORE the first fault"
        } else {
            "after the first fault"
        };
        println!("seed {seed}: differs at line {at} of {}, {when}", one.len());
        for line in &one[at.saturating_sub(CONTEXT)..at] {
            println!("    {line}");
        }
        println!("  1 {}", one.get(at).unwrap_or(&"(ends)"));
        println!("  2 {}", two.get(at).unwrap_or(&"(ends)"));
        n_early += u32::from(is_early);
        n_late += u32::from(!is_early);
    }
    println!("{n_seeds} seeds twice: {n_early} differ before the first fault, {n_late} after it");
    Ok(match n_early {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn first_difference(one: &[&str], two: &[&str]) -> Option<usize> {
    let common = one.iter().zip(two).position(|(one, two)| one != two);
    common.or((one.len() != two.len()).then_some(one.len().min(two.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_also_at_an_end() {
        assert_eq!(first_difference(&["a", "b"], &["a", "b"]), None);
        assert_eq!(first_difference(&["a", "b"], &["a", "c"]), Some(1));
        assert_eq!(first_difference(&["a"], &["a", "c"]), Some(1));
    }
}
