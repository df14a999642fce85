//! As whom an instance runs. Never as somebody else than was asked for: what this node may not do is
//! refused.

use nihilo_types::instance::RunAs;
use nihilo_types::node_config::RunAsSetting;

const ROOT: u32 = 0;

/// User and group to become, or `None` to stay as this node is (`own`).
///
/// # Errors
/// The node is not root and would have to become somebody else.
pub(super) fn ids(
    wanted: RunAs,
    setting: Option<RunAsSetting>,
    own: (u32, u32),
) -> Result<Option<(u32, u32)>, String> {
    let default = setting.map(|setting| (setting.user, setting.group.unwrap_or(setting.user)));
    let (user, group) = match (wanted.user, wanted.group, default) {
        (Some(user), group, _) => (user, group.unwrap_or(user)),
        (None, Some(group), default) => (default.unwrap_or(own).0, group),
        (None, None, Some(default)) => default,
        (None, None, None) => return Ok(None),
    };
    if (user, group) == own {
        return Ok(None);
    }
    if own.0 != ROOT {
        return Err(format!(
            "to run as user {user}, group {group} needs a node that runs as root; this one can run \
             programs only as its own {}, {}: leave `securityContext` out, or run the node as root",
            own.0, own.1
        ));
    }
    Ok(Some((user, group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: (u32, u32) = (1_000, 1_000);

    fn run_as(user: impl Into<Option<u32>>, group: impl Into<Option<u32>>) -> RunAs {
        RunAs {
            user: user.into(),
            group: group.into(),
        }
    }

    #[test]
    fn root_becomes_whoever_is_wanted_and_the_service_goes_before_the_node() {
        let nobody = Some(RunAsSetting {
            user: 65_534,
            group: Some(7),
        });
        let user_only = Some(RunAsSetting {
            user: 65_532,
            group: None,
        });
        let cases = [
            (run_as(None, None), None, None),
            (run_as(None, None), nobody, Some((65_534, 7))),
            (run_as(None, None), user_only, Some((65_532, 65_532))),
            (run_as(5, None), nobody, Some((5, 5))),
            (run_as(5, 6), None, Some((5, 6))),
            (run_as(None, 6), nobody, Some((65_534, 6))),
            (run_as(None, 6), None, Some((0, 6))),
            // Asked for in so many words, against a node whose default is another.
            (run_as(0, 0), nobody, None),
        ];
        for (wanted, setting, want) in cases {
            assert_eq!(
                ids(wanted, setting, (0, 0)),
                Ok(want),
                "{wanted:?} {setting:?}"
            );
        }
    }

    #[test]
    fn another_node_runs_programs_as_itself_or_not_at_all() {
        assert_eq!(ids(run_as(None, None), None, NODE), Ok(None));
        assert_eq!(ids(run_as(1_000, None), None, NODE), Ok(None));
        assert_eq!(ids(run_as(None, 1_000), None, NODE), Ok(None));
        for wanted in [run_as(0, None), run_as(1_000, 5), run_as(65_532, None)] {
            let refused = ids(wanted, None, NODE).unwrap_err();
            assert!(
                refused.contains("needs a node that runs as root"),
                "{refused}"
            );
        }
    }
}
