//! Nodes that are cordoned or drained: what is placed there, and how what runs there leaves.

use nihilo_entity::Event;
use nihilo_entity::revision::RevisionActor;
use nihilo_machine::member::Duty;
use nihilo_types::autoscaler::DataPath;
use nihilo_types::instance::InstanceState;

use crate::stage::{ONE, Stage, TWO, key, orders};

const FULL: Duty = Duty::Full;
const CORDONED: Duty = Duty::Cordoned;
const DRAINED: Duty = Duty::Drained;
use InstanceState::{Booting, Draining, Ready, Stopping};

/// Instances by name, on node 1 (session 2) or node 2 (session 3).
struct Case {
    name: &'static str,
    max_scale: &'static str,
    duties: [Duty; 2],
    there: &'static [(&'static str, u64, InstanceState)],
    desired: u32,
    want: &'static [&'static str],
}

fn check(cases: &[Case]) {
    for case in cases {
        let mut stage = Stage::new(&[("max-scale", case.max_scale)]);
        stage.mark_ready("hello-00001");
        for (id, node, state) in case.there {
            let session = if *node == 1 { ONE } else { TWO };
            stage.instance(id, session, *state);
        }
        let mut actor = RevisionActor::load(&key("hello-00001"), stage.view());
        stage.duties(case.duties);
        let event = Event::Desired {
            n: case.desired,
            path: DataPath::Proxy,
            near: None,
        };
        let outputs = actor.turn(stage.view(), &event, stage.now_ms);
        assert_eq!(orders(&outputs), case.want, "{}", case.name);
    }
}

#[test]
fn nothing_is_placed_on_a_node_that_is_cordoned_or_drained() {
    let case = |name, duties, want| Case {
        name,
        max_scale: "0",
        duties,
        there: &[],
        desired: 2,
        want,
    };
    check(&[
        case(
            "both work",
            [FULL, FULL],
            &["start #1 on 2", "start #2 on 3"],
        ),
        case(
            "one is cordoned",
            [CORDONED, FULL],
            &["start #1 on 3", "start #2 on 3"],
        ),
        case(
            "one is drained",
            [FULL, DRAINED],
            &["start #1 on 2", "start #2 on 2"],
        ),
        case(
            "nobody is left",
            [CORDONED, DRAINED],
            &["timer backoff 1000"],
        ),
    ]);
}

#[test]
fn a_cordoned_node_keeps_what_it_runs() {
    check(&[
        Case {
            name: "as many as are wanted",
            max_scale: "0",
            duties: [CORDONED, FULL],
            there: &[("a", 1, Ready)],
            desired: 1,
            want: &[],
        },
        Case {
            name: "one that drains is called back",
            max_scale: "0",
            duties: [CORDONED, FULL],
            there: &[("a", 1, Draining)],
            desired: 1,
            want: &["reopen a on 2"],
        },
    ]);
}

#[test]
fn a_replacement_comes_first_where_the_cap_has_room() {
    let case = |name, there, desired, want| Case {
        name,
        max_scale: "3",
        duties: [DRAINED, FULL],
        there,
        desired,
        want,
    };
    check(&[
        case("it is started", &[("a", 1, Ready)], 1, &["start #1 on 3"]),
        case(
            "and waited for",
            &[("a", 1, Ready), ("b", 2, Booting)],
            1,
            &[],
        ),
        case(
            "then the old one goes",
            &[("a", 1, Ready), ("b", 2, Ready)],
            1,
            &["stop a on 2: drain"],
        ),
        case(
            "only as many go as are replaced",
            &[("a", 1, Ready), ("b", 1, Ready), ("c", 2, Ready)],
            2,
            &["stop a on 2: drain"],
        ),
        case(
            "with room for one of two",
            &[("a", 1, Ready), ("b", 1, Ready)],
            2,
            &["start #1 on 3"],
        ),
        case(
            "one that is not ready is not waited for",
            &[("a", 1, Booting), ("b", 2, Ready), ("c", 2, Booting)],
            2,
            &[],
        ),
        case(
            "less is wanted: those that move go",
            &[("a", 1, Ready), ("b", 2, Ready), ("c", 1, Ready)],
            1,
            &["stop a on 2: drain", "stop c on 2: drain"],
        ),
        case(
            "none is wanted",
            &[("a", 1, Ready)],
            0,
            &["stop a on 2: drain"],
        ),
        case(
            "one that leaves a drained node is not called back",
            &[("a", 1, Draining)],
            1,
            &["start #1 on 3"],
        ),
    ]);
}

#[test]
fn at_the_cap_one_at_a_time_is_given_up() {
    let case = |name, duties, there, want| Case {
        name,
        max_scale: "2",
        duties,
        there,
        desired: 2,
        want,
    };
    let both: &[_] = &[("a", 1, Ready), ("b", 1, Ready)];
    check(&[
        case("the first", [DRAINED, FULL], both, &["stop a on 2: drain"]),
        case(
            "it is waited for",
            [DRAINED, FULL],
            &[("a", 1, Draining), ("b", 1, Ready)],
            &[],
        ),
        case(
            "once SIGTERM is sent, too",
            [DRAINED, FULL],
            &[("a", 1, Stopping), ("b", 1, Ready)],
            &[],
        ),
        case(
            "its place is used",
            [DRAINED, FULL],
            &[("b", 1, Ready)],
            &["start #1 on 3"],
        ),
        case(
            "the next waits until that one is ready",
            [DRAINED, FULL],
            &[("b", 1, Ready), ("c", 2, Booting)],
            &[],
        ),
        case(
            "and goes then",
            [DRAINED, FULL],
            &[("b", 1, Ready), ("c", 2, Ready)],
            &["stop b on 2: drain"],
        ),
        case(
            "nobody else takes one: all stay, and are looked at again",
            [DRAINED, CORDONED],
            both,
            &["timer backoff 1000"],
        ),
        case(
            "one that was given up is called back, if nobody takes another",
            [DRAINED, CORDONED],
            &[("a", 1, Draining), ("b", 1, Ready)],
            &["reopen a on 2"],
        ),
    ]);
}
