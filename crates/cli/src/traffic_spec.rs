//! Traffic on the command line: `REV=PCT`, `@latest=PCT`, `REV#TAG=PCT`, `REV#TAG`, by commas.

use std::collections::BTreeSet;

use nihilo_types::route::TrafficTarget;

use crate::failure::{Failure, Result};

const LATEST: &str = "@latest";

/// Reads all shares of a service's traffic.
///
/// # Errors
/// Usage: a malformed or repeated part, or shares that are not 100 % together.
pub(crate) fn parse(parts: &[String]) -> Result<Vec<TrafficTarget>> {
    let parts = parts.iter().flat_map(|part| part.split(','));
    let parts: Vec<_> = parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    let targets: Vec<_> = parts.into_iter().map(parse_one).collect::<Result<_>>()?;
    let sum: u64 = targets.iter().map(|target| u64::from(target.share())).sum();
    if sum != 100 {
        return Err(
            Failure::usage(format!("traffic shares sum to {sum} %, must be 100 %"))
                .hint("nihilo traffic set SERVICE REVISION=90,@latest=10"),
        );
    }
    let mut tags = BTreeSet::new();
    for tag in targets
        .iter()
        .map(|target| &target.tag)
        .filter(|tag| !tag.is_empty())
    {
        if !tags.insert(tag) {
            return Err(Failure::usage(format!("tag `{tag}` is given twice")));
        }
    }
    Ok(targets)
}

fn parse_one(part: &str) -> Result<TrafficTarget> {
    let malformed = |why: &str| {
        Failure::usage(format!("traffic `{part}`: {why}"))
            .because("expected REVISION=PERCENT, @latest=PERCENT, or REVISION#TAG[=PERCENT]")
    };
    let (target, percent) = match part.split_once('=') {
        Some((target, percent)) => (target, Some(percent.trim_end_matches('%'))),
        None => (part, None),
    };
    let (name, tag) = target.split_once('#').unwrap_or((target, ""));
    if name.is_empty() {
        return Err(malformed("no revision is named"));
    }
    if name.starts_with('@') && name != LATEST {
        return Err(malformed("the only name with `@` is `@latest`"));
    }
    let percent = match percent {
        Some(text) => match text.parse::<u32>() {
            Ok(percent) if percent <= 100 => percent,
            _ => return Err(malformed("the share must be a whole number from 0 to 100")),
        },
        None if tag.is_empty() => return Err(malformed("neither a share nor a tag")),
        None => 0,
    };
    let target = match name {
        LATEST => TrafficTarget::latest(percent),
        name => TrafficTarget::revision(name, percent),
    };
    Ok(TrafficTarget {
        tag: tag.into(),
        ..target
    })
}

/// `90% → hello-00001, 10% → @latest`, without targets that get nothing.
pub(crate) fn describe(traffic: &[TrafficTarget]) -> String {
    let share = |target: &TrafficTarget| {
        let name = if target.revision_name.is_empty() {
            LATEST
        } else {
            &target.revision_name
        };
        format!("{}% → {name}", target.share())
    };
    let shares: Vec<_> = traffic
        .iter()
        .filter(|t| t.share() > 0)
        .map(share)
        .collect();
    shares.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<TrafficTarget>> {
        parse(&[text.to_owned()])
    }

    #[test]
    fn shares_tags_and_the_latest() {
        let traffic = check("hello-00001#stable=90,@latest=10%,hello-00003#next").unwrap();
        let stable = TrafficTarget {
            tag: "stable".into(),
            ..TrafficTarget::revision("hello-00001", 90)
        };
        let next = TrafficTarget {
            tag: "next".into(),
            ..TrafficTarget::revision("hello-00003", 0)
        };
        assert_eq!(traffic, [stable, TrafficTarget::latest(10), next]);
        assert_eq!(describe(&traffic), "90% → hello-00001, 10% → @latest");
    }

    #[test]
    fn mistakes_are_usage_errors_that_say_what() {
        let cases = [
            ("a=50,b=49", "sum to 99 %"),
            ("a=101", "from 0 to 100"),
            ("a=x", "from 0 to 100"),
            ("=100", "no revision"),
            ("@newest=100", "@latest"),
            ("a", "neither a share nor a tag"),
            ("a#t=50,b#t=50", "tag `t` is given twice"),
            ("", "sum to 0 %"),
        ];
        for (text, want) in cases {
            let failure = check(text).unwrap_err();
            assert_eq!(failure.code, 2);
            assert!(failure.to_string().contains(want), "{text}: {failure}");
        }
    }
}
