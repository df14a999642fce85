//! Each situation of a membership, and the one step out of it.

use nihilo_types::id::LogIndex;

use super::*;

const LEARNER: Standing = Standing::Learner;
const VOTER: Standing = Standing::Voter;
const REMOVED: Standing = Standing::Removed { at: LogIndex(90) };

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

fn wanted(members: &[(u64, Standing)]) -> Vec<Arc<Member>> {
    let member = |(id, standing): &(u64, Standing)| {
        Arc::new(Member {
            id: NodeId(*id),
            name: format!("node{id}"),
            peer_address: format!("host{id}:7071"),
            admin_address: format!("host{id}:7070"),
            standing: *standing,
            is_founder: *id <= 3,
            duty: Duty::Full,
        })
    };
    members.iter().map(member).collect()
}

struct Case {
    name: &'static str,
    wanted: &'static [(u64, Standing)],
    configs: &'static [&'static [u64]],
    nodes: &'static [u64],
    /// Caught up and answering; everybody else is silent.
    there: &'static [u64],
    want: Option<Step>,
}

type NextStep = fn(&[Arc<Member>], &Observed) -> Option<Step>;

fn check(case: Case) {
    check_with(next_step, case);
}

fn check_with(next_step: NextStep, case: Case) {
    let seen = Observed {
        me: 1,
        configs: case.configs.iter().map(|ids| set(ids)).collect(),
        nodes: set(case.nodes),
        is_committed: true,
        lag: case.there.iter().map(|id| (*id, CAUGHT_UP)).collect(),
        heard: set(case.there),
    };
    let step = next_step(&wanted(case.wanted), &seen);
    assert_eq!(step, case.want, "{}", case.name);
    let uncommitted = Observed {
        is_committed: false,
        ..seen
    };
    let waits = next_step(&wanted(case.wanted), &uncommitted);
    assert_eq!(waits, None, "{}: waits for the last step", case.name);
}

const FOUNDERS: &[(u64, Standing)] = &[(1, VOTER), (2, VOTER), (3, VOTER)];
const ALL: &[u64] = &[1, 2, 3];

#[test]
fn growing() {
    check(Case {
        name: "as it should be",
        wanted: FOUNDERS,
        configs: &[ALL],
        nodes: ALL,
        there: ALL,
        want: None,
    });
    check(Case {
        name: "a newcomer becomes a learner",
        wanted: &[(1, VOTER), (2, VOTER), (3, VOTER), (17, LEARNER)],
        configs: &[ALL],
        nodes: ALL,
        there: ALL,
        want: Some(Step::AddLearner(17)),
    });
    check(Case {
        name: "a learner stays one while no voter is missing",
        wanted: &[(1, VOTER), (2, VOTER), (3, VOTER), (17, LEARNER)],
        configs: &[ALL],
        nodes: &[1, 2, 3, 17],
        there: &[1, 2, 3, 17],
        want: None,
    });
    check(Case {
        name: "one that is to vote waits until it has caught up",
        wanted: &[(1, VOTER), (2, VOTER), (3, VOTER), (17, VOTER)],
        configs: &[ALL],
        nodes: &[1, 2, 3, 17],
        there: ALL,
        want: None,
    });
    check(Case {
        name: "and votes then",
        wanted: &[(1, VOTER), (2, VOTER), (3, VOTER), (17, VOTER)],
        configs: &[ALL],
        nodes: &[1, 2, 3, 17],
        there: &[1, 2, 3, 17],
        want: Some(Step::Promote(set(&[17]))),
    });
}

fn a_joint_configuration_is_finished_first(next_step: NextStep) {
    let case = Case {
        name: "whatever else is wanted",
        wanted: &[
            (1, VOTER),
            (2, REMOVED),
            (3, VOTER),
            (17, VOTER),
            (20, LEARNER),
        ],
        configs: &[ALL, &[1, 2, 3, 17]],
        nodes: &[1, 2, 3, 17],
        there: &[1, 2, 3, 17],
        want: Some(Step::FinishJoint),
    };
    check_with(next_step, case);
}

#[test]
fn a_joint_configuration_left_behind_is_finished_first() {
    a_joint_configuration_is_finished_first(next_step);
}

#[test]
#[should_panic(expected = "whatever else is wanted")]
fn planted_a_joint_configuration_that_is_taken_for_its_last_half_is_found() {
    a_joint_configuration_is_finished_first(|wanted, seen| {
        let configs = seen.configs.last().cloned().into_iter().collect();
        let seen = Observed {
            configs,
            ..seen.clone()
        };
        next_step(wanted, &seen)
    });
}

#[test]
fn shrinking() {
    const WITHOUT_2: &[(u64, Standing)] = &[(1, VOTER), (2, REMOVED), (3, VOTER)];
    check(Case {
        name: "a removed voter goes",
        wanted: WITHOUT_2,
        configs: &[ALL],
        nodes: ALL,
        there: ALL,
        want: Some(Step::DropVoters(set(&[2]))),
    });
    check(Case {
        name: "a dead one too",
        wanted: WITHOUT_2,
        configs: &[ALL],
        nodes: ALL,
        there: &[1, 3],
        want: Some(Step::DropVoters(set(&[2]))),
    });
    check(Case {
        name: "not while the rest could not decide",
        wanted: WITHOUT_2,
        configs: &[ALL],
        nodes: ALL,
        there: &[1, 2],
        want: Some(Step::Impossible(
            "without {2} only 1 of 2 voters answer".into(),
        )),
    });
    check(Case {
        name: "the leader hands over before it goes",
        wanted: &[(1, REMOVED), (2, VOTER), (3, VOTER)],
        configs: &[ALL],
        nodes: ALL,
        there: ALL,
        want: Some(Step::HandOver),
    });
    check(Case {
        name: "a removed learner goes without a change of voters",
        wanted: &[(1, VOTER), (2, VOTER), (3, VOTER), (17, REMOVED)],
        configs: &[ALL],
        nodes: &[1, 2, 3, 17],
        there: ALL,
        want: Some(Step::DropLearners(set(&[17]))),
    });
    check(Case {
        name: "once gone, it stays gone",
        wanted: WITHOUT_2,
        configs: &[&[1, 3]],
        nodes: &[1, 3],
        there: &[1, 3],
        want: None,
    });
}

#[test]
fn replacing() {
    const REPLACED: &[(u64, Standing)] = &[(1, VOTER), (2, REMOVED), (3, VOTER), (17, LEARNER)];
    check(Case {
        name: "a learner takes a missing voter's place",
        wanted: REPLACED,
        configs: &[&[1, 3]],
        nodes: &[1, 3, 17],
        there: &[1, 3, 17],
        want: Some(Step::Want(PromoteNode { node: NodeId(17) })),
    });
    check(Case {
        name: "when it has caught up",
        wanted: REPLACED,
        configs: &[&[1, 3]],
        nodes: &[1, 3, 17],
        there: &[1, 3],
        want: None,
    });
    check(Case {
        name: "the new one votes before the old one goes",
        wanted: &[(1, VOTER), (2, REMOVED), (3, VOTER), (17, VOTER)],
        configs: &[ALL],
        nodes: &[1, 2, 3, 17],
        there: &[1, 3, 17],
        want: Some(Step::Promote(set(&[17]))),
    });
}

#[test]
fn a_drained_leader_hands_over_to_whoever_is_closest_behind() {
    // (drained, nodes 2 and 3 with their lag if they answer, who is to lead)
    let cases = [
        (&[1][..], [Some(5), Some(0)], Some(3)),
        (&[1], [Some(5), None], Some(2)),
        (&[1, 3], [Some(5), Some(0)], Some(2)),
        (&[1], [Some(CAUGHT_UP + 1), None], None),
        (&[1, 2, 3], [Some(0), Some(0)], None),
        (&[2], [Some(0), Some(0)], None),
    ];
    for (drained, lags, want) in cases {
        let answering = (2..).zip(lags);
        let lag: BTreeMap<u64, u64> = answering.filter_map(|(id, lag)| Some((id, lag?))).collect();
        let mut members = wanted(FOUNDERS);
        for member in &mut members {
            if drained.contains(&member.id.0) {
                Arc::make_mut(member).duty = Duty::Drained;
            }
        }
        let seen = Observed {
            me: 1,
            configs: vec![set(ALL)],
            nodes: set(ALL),
            is_committed: true,
            heard: lag.keys().copied().chain([1]).collect(),
            lag,
        };
        let step = next_step(&members, &seen);
        assert_eq!(step, want.map(Step::Retire), "{drained:?} {lags:?}");
    }
}
