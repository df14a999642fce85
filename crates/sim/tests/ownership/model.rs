//! What can happen, and what must hold whatever happens.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::node::{Entry, Index, Instance, Node, Owner, Row, Table};

const N: usize = 2;
const CAP: usize = 1;
/// Bounds of one history.
const MAX_LOG: usize = 6;
const MAX_STARTS: u8 = 3;
const MAX_CRASHES: u8 = 2;
const MAX_SEQ: u8 = 4;
const MAX_MESSAGES: usize = 3;

/// A rule that is left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Plant {
    AnyLife,
    NoEpochCheck,
    NoSeqCheck,
    FloorForgotten,
    AdoptionForgets,
    StrandedNotCounted,
    KeeperDoesNotWait,
    ReloadForgetsStarts,
    OldSessionStaysOpen,
    NoListAfterJoin,
    NewOwnerForgetsTheLost,
}

#[derive(Debug, Clone)]
pub(crate) struct Ownership {
    /// Instances outlive a crash of their node and are adopted by its next life.
    pub(crate) adopts: bool,
    /// The one link that may be cut, and heal.
    pub(crate) link: Cut,
    /// One instance runs from the beginning, where its owner is.
    pub(crate) is_warm: bool,
    pub(crate) plant: Option<Plant>,
}

/// The one link that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    None,
    BetweenNodes,
    FromLeader(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    Start {
        from: usize,
        to: Index,
        epoch: Index,
        seq: u8,
        id: Instance,
    },
    Started {
        to: usize,
        epoch: Index,
        from: Index,
        id: Instance,
    },
    List {
        from: usize,
        to: Index,
        epoch: Index,
        seq: u8,
    },
    Listed {
        to: usize,
        epoch: Index,
        from: Index,
        seq: u8,
        shown: BTreeSet<Instance>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) log: Vec<Entry>,
    pub(crate) nodes: [Node; N],
    pub(crate) net: BTreeSet<Message>,
    pub(crate) cut: Cut,
    pub(crate) cuts_left: u8,
    pub(crate) crashes_left: u8,
    pub(crate) starts_left: u8,
    /// A node that was not heard has lost its place under the cap by the rules: what it runs may
    /// exceed it until it is heard.
    pub(crate) is_excused: bool,
    pub(crate) has_adopted: bool,
    pub(crate) has_relayed: bool,
    floor_fell: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Propose(Entry),
    Apply(usize),
    /// To every agent that is waited for, or whose start is in doubt.
    SendLists(usize),
    SendStart(usize, Index),
    Deliver(Message, bool),
    Lose(Message),
    GraceOver(usize, Instance),
    /// Of a node that a new owner waits for, whatever it may have run.
    WaitOver(usize, usize),
    Reload(usize),
    Crash(usize),
    Restart(usize),
    Cut(Cut),
}

impl Ownership {
    pub(crate) fn new(adopts: bool, link: Cut) -> Self {
        Self {
            adopts,
            link,
            is_warm: false,
            plant: None,
        }
    }

    fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    fn table(&self, state: &State, n: usize) -> Table {
        let log = &state.log[..state.nodes[n].applied];
        Table::of(log, self.has(Plant::OldSessionStaysOpen))
    }

    fn newest(&self, state: &State) -> Table {
        Table::of(&state.log, self.has(Plant::OldSessionStaysOpen))
    }

    fn apply(&self, state: &mut State, n: usize) {
        let before = self.table(state, n);
        state.nodes[n].applied += 1;
        let after = self.table(state, n);
        let node = &mut state.nodes[n];
        node.floor = node.floor.max(if self.has(Plant::FloorForgotten) {
            0
        } else {
            after.epoch
        });
        let mine = node.session != 0 && after.owner == node.session;
        let agents: BTreeSet<_> = after.sessions.keys().copied().collect();
        if !mine {
            node.owner = None;
            return;
        }
        if node
            .owner
            .as_ref()
            .is_none_or(|owner| owner.epoch != after.epoch)
        {
            // Where instances die with their node, nobody comes back with any.
            let waits = self.adopts && !self.has(Plant::NewOwnerForgetsTheLost);
            let is_lost = |at: &usize| waits && !after.sessions.values().any(|open| open == at);
            let awaited = (0..N).filter(is_lost).collect();
            node.owner = Some(Owner::new(after.epoch, agents, awaited));
            return;
        }
        for (ended, at) in before
            .sessions
            .iter()
            .filter(|(session, _)| !after.sessions.contains_key(session))
        {
            let is_up = state.nodes[*at].is_up;
            let Some(owner) = &mut state.nodes[n].owner else {
                return;
            };
            if !self.adopts && owner.rows.values().any(|row| row_at(*row, *ended)) {
                // It dies with its process, unless that only was not heard.
                state.is_excused |= is_up;
            }
            let counts = self.adopts && !self.has(Plant::StrandedNotCounted);
            owner.session_ended(*ended, *at, counts);
        }
        if let Some(owner) = &mut state.nodes[n].owner
            && !self.has(Plant::NoListAfterJoin)
        {
            let joined = after.sessions.keys();
            owner
                .waiting
                .extend(joined.filter(|session| !before.sessions.contains_key(session)));
        }
    }

    /// The agent at the session's address, if it takes orders.
    fn agent<'a>(&self, state: &'a mut State, session: Index) -> Option<&'a mut Node> {
        let at = state.node_of(session)?;
        let node = &mut state.nodes[at];
        // A call is for one life of a node: the next one may meet it late.
        let any_life = self.has(Plant::AnyLife) || self.has(Plant::FloorForgotten);
        if node.session != session && !any_life {
            return None;
        }
        let knows_itself = node.session != 0 && usize::from(node.session) <= node.applied;
        let takes = knows_itself || self.has(Plant::FloorForgotten);
        (node.is_up && takes).then_some(node)
    }

    /// The fence: an epoch below the floor is refused; so is, within one, what a list has voided.
    fn admits(&self, node: &Node, epoch: Index, seq: u8) -> bool {
        let old_epoch = epoch < node.floor && !self.has(Plant::NoEpochCheck);
        let voided = epoch == node.floor && seq <= node.listed && !self.has(Plant::NoSeqCheck);
        !old_epoch && !voided
    }

    fn obey(&self, state: &mut State, session: Index, epoch: Index) {
        let mut fell = false;
        if let Some(at) = state.node_of(session) {
            let node = &mut state.nodes[at];
            if epoch > node.floor {
                (node.floor, node.listed) = (epoch, 0);
            }
            fell = epoch < node.obeyed;
            node.obeyed = node.obeyed.max(epoch);
        }
        // An agent that obeys less than it once did has no floor; with the check planted away
        // that is the plant's own doing, and the cap shows it.
        state.floor_fell |= fell && !self.has(Plant::NoEpochCheck);
    }

    fn deliver(&self, state: &mut State, message: Message) {
        match message {
            Message::Start {
                from,
                to,
                epoch,
                seq,
                id,
            } => {
                let Some(node) = self.agent(state, to) else {
                    return;
                };
                if !self.admits(node, epoch, seq) {
                    return;
                }
                node.running.insert(id);
                self.obey(state, to, epoch);
                state.net.insert(Message::Started {
                    to: from,
                    epoch,
                    from: to,
                    id,
                });
            }
            Message::List {
                from,
                to,
                epoch,
                seq,
            } => {
                let Some(node) = self.agent(state, to) else {
                    return;
                };
                if epoch < node.floor && !self.has(Plant::NoEpochCheck) {
                    return;
                }
                let shown = node.running.clone();
                self.obey(state, to, epoch);
                if let Some(node) = self.agent(state, to)
                    && epoch == node.floor
                {
                    node.listed = node.listed.max(seq);
                }
                state.net.insert(Message::Listed {
                    to: from,
                    epoch,
                    from: to,
                    seq,
                    shown,
                });
            }
            Message::Started {
                to,
                epoch,
                from,
                id,
            } => {
                if let Some(owner) = state.nodes[to].owner.as_mut().filter(|o| o.epoch == epoch)
                    && let Some(row) = owner.rows.get_mut(&id)
                    && matches!(row, Row::Requested { .. })
                {
                    *row = Row::Reported { session: from };
                }
            }
            Message::Listed {
                to,
                epoch,
                from,
                seq,
                shown,
            } => {
                let table = self.table(state, to);
                let Some(at) = table.sessions.get(&from).copied() else {
                    return;
                };
                let Some(owner) = state.nodes[to].owner.as_mut().filter(|o| o.epoch == epoch)
                else {
                    return;
                };
                let stranded = |row: &Row| matches!(row, Row::Stranded { node } if *node == at);
                let is_back = owner
                    .rows
                    .iter()
                    .any(|(id, row)| stranded(row) && shown.contains(id));
                state.has_adopted |= is_back;
                owner.listed(from, at, seq, &shown, !self.has(Plant::AdoptionForgets));
            }
        }
    }

    fn may_start(&self, owner: &Owner) -> bool {
        let complete = owner.waiting.is_empty() && owner.awaited.is_empty()
            || self.has(Plant::KeeperDoesNotWait);
        complete && owner.rows.len() < CAP && owner.seq < MAX_SEQ
    }
}

fn to_list(owner: &Owner) -> BTreeSet<Index> {
    let doubt = owner.rows.values().filter_map(|row| match row {
        Row::Requested { session, .. } => Some(*session),
        Row::Reported { .. } | Row::Stranded { .. } => None,
    });
    owner.waiting.iter().copied().chain(doubt).collect()
}

fn row_at(row: Row, at: Index) -> bool {
    matches!(row, Row::Requested { session, .. } | Row::Reported { session } if session == at)
}

impl State {
    fn reaches_leader(&self, n: usize) -> bool {
        self.cut != Cut::FromLeader(n)
    }

    /// `None` = not at all, `Some(true)` = by the leader's relay, which carries lists only.
    fn way(&self, a: usize, b: usize, is_list: bool) -> Option<bool> {
        if a == b || self.cut != Cut::BetweenNodes {
            return Some(false);
        }
        (is_list && self.reaches_leader(a) && self.reaches_leader(b)).then_some(true)
    }

    fn node_of(&self, session: Index) -> Option<usize> {
        match self.log.get(usize::from(session).checked_sub(1)?)? {
            Entry::Open { node } => Some(*node),
            Entry::Down { .. } => None,
        }
    }

    fn ends(&self, message: &Message) -> (Option<usize>, Option<usize>, bool) {
        match message {
            Message::Start { from, to, .. } => (Some(*from), self.node_of(*to), false),
            Message::Started { to, from, .. } => (self.node_of(*from), Some(*to), false),
            Message::List { from, to, .. } => (Some(*from), self.node_of(*to), true),
            Message::Listed { to, from, .. } => (self.node_of(*from), Some(*to), true),
        }
    }
}

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Both nodes are there, the first one owns the shard and has heard both agents.
        let node = |session: Index| Node {
            is_up: true,
            applied: N,
            session,
            floor: 1,
            obeyed: 1,
            ..Node::default()
        };
        let mut first = node(1);
        let mut owner = Owner::new(1, BTreeSet::new(), BTreeSet::new());
        if self.is_warm {
            owner.rows.insert(1, Row::Reported { session: 1 });
            first.running.insert(1);
        }
        first.owner = Some(owner);
        vec![State {
            log: vec![Entry::Open { node: 0 }, Entry::Open { node: 1 }],
            nodes: [first, node(2)],
            net: BTreeSet::new(),
            cut: Cut::None,
            cuts_left: u8::from(self.link != Cut::None),
            crashes_left: MAX_CRASHES,
            starts_left: MAX_STARTS - u8::from(self.is_warm),
            is_excused: false,
            has_adopted: false,
            has_relayed: false,
            floor_fell: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let newest = self.newest(state);
        for (n, node) in state.nodes.iter().enumerate() {
            if !node.is_up {
                actions.push(Action::Restart(n));
            } else {
                let may_open = node.session == 0 || !newest.sessions.contains_key(&node.session);
                if may_open && state.reaches_leader(n) && node.applied == state.log.len() {
                    actions.push(Action::Propose(Entry::Open { node: n }));
                }
                if node.applied < state.log.len() && state.reaches_leader(n) {
                    actions.push(Action::Apply(n));
                }
                if state.crashes_left > 0 && node.session != 0 {
                    actions.push(Action::Crash(n));
                }
            }
            // Silent or gone: its life is over for the others.
            let unheard = !node.is_up || !state.reaches_leader(n);
            for session in newest
                .sessions
                .iter()
                .filter(|(_, at)| **at == n && unheard)
            {
                actions.push(Action::Propose(Entry::Down {
                    session: *session.0,
                }));
            }
            let Some(owner) = node.owner.as_ref().filter(|_| node.is_up) else {
                continue;
            };
            let table = self.table(state, n);
            if owner.seq < MAX_SEQ && !to_list(owner).is_empty() {
                actions.push(Action::SendLists(n));
            }
            if self.may_start(owner) && state.starts_left > 0 {
                actions.extend(table.sessions.keys().map(|to| Action::SendStart(n, *to)));
            }
            let stranded = owner
                .rows
                .iter()
                .filter(|(_, row)| matches!(row, Row::Stranded { .. }));
            actions.extend(stranded.map(|(id, _)| Action::GraceOver(n, *id)));
            actions.extend(owner.awaited.iter().map(|at| Action::WaitOver(n, *at)));
            if !owner.has_reloaded {
                actions.push(Action::Reload(n));
            }
        }
        for message in &state.net {
            let (from, to, is_list) = state.ends(message);
            if let (Some(from), Some(to)) = (from, to)
                && let Some(relayed) = state.way(from, to, is_list)
                && state.nodes[to].is_up
            {
                actions.push(Action::Deliver(message.clone(), relayed));
            }
            // One that is never delivered is lost; said only to make room.
            if state.net.len() == MAX_MESSAGES {
                actions.push(Action::Lose(message.clone()));
            }
        }
        match state.cut {
            Cut::None if state.cuts_left > 0 => actions.push(Action::Cut(self.link)),
            Cut::None => {}
            Cut::BetweenNodes | Cut::FromLeader(_) => actions.push(Action::Cut(Cut::None)),
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Propose(entry) => {
                state.log.push(entry.clone());
                if let Entry::Open { node } = entry {
                    state.nodes[node].session = state.log.len() as Index;
                    state.nodes[node].owner = None;
                }
            }
            Action::Apply(n) => self.apply(&mut state, n),
            Action::SendLists(n) => {
                let owner = state.nodes[n].owner.as_mut()?;
                owner.seq += 1;
                let (epoch, seq) = (owner.epoch, owner.seq);
                for to in to_list(owner) {
                    state.net.insert(Message::List {
                        from: n,
                        to,
                        epoch,
                        seq,
                    });
                }
            }
            Action::SendStart(n, to) => {
                state.starts_left -= 1;
                let id = MAX_STARTS - state.starts_left;
                let owner = state.nodes[n].owner.as_mut()?;
                owner.seq += 1;
                let (epoch, seq) = (owner.epoch, owner.seq);
                owner.rows.insert(id, Row::Requested { session: to, seq });
                state.net.insert(Message::Start {
                    from: n,
                    to,
                    epoch,
                    seq,
                    id,
                });
            }
            // It stays: the network may bring it again.
            Action::Deliver(message, relayed) => {
                state.has_relayed |= relayed;
                self.deliver(&mut state, message);
            }
            Action::Lose(message) => drop(state.net.remove(&message)),
            Action::GraceOver(n, id) => {
                let table = self.table(&state, n);
                let owner = state.nodes[n].owner.as_mut()?;
                if let Some(Row::Stranded { node }) = owner.rows.remove(&id) {
                    // Back within the grace: its list comes first, and counts it again.
                    state.is_excused |= !table.sessions.values().any(|at| *at == node);
                }
            }
            Action::WaitOver(n, at) => {
                let table = self.table(&state, n);
                let owner = state.nodes[n].owner.as_mut()?;
                owner.awaited.remove(&at);
                state.is_excused |= !table.sessions.values().any(|open| *open == at);
            }
            Action::Reload(n) => {
                let owner = state.nodes[n].owner.as_mut()?;
                owner.has_reloaded = true;
                if self.has(Plant::ReloadForgetsStarts) {
                    owner
                        .rows
                        .retain(|_, row| !matches!(row, Row::Requested { .. }));
                }
            }
            Action::Crash(n) => {
                state.crashes_left -= 1;
                let node = &mut state.nodes[n];
                let kept = std::mem::take(node);
                node.applied = kept.applied;
                node.obeyed = kept.obeyed;
                if self.adopts {
                    node.running = kept.running;
                }
            }
            Action::Restart(n) => {
                let floor = self.table(&state, n).epoch;
                let node = &mut state.nodes[n];
                node.is_up = true;
                node.floor = if self.has(Plant::FloorForgotten) {
                    0
                } else {
                    floor
                };
            }
            Action::Cut(cut) => {
                state.cuts_left -= u8::from(cut != Cut::None);
                state.cut = cut;
            }
        }
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.log.len() <= MAX_LOG && state.net.len() <= MAX_MESSAGES
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("cap", |_, state: &State| {
                let n: usize = state.nodes.iter().map(|node| node.running.len()).sum();
                n <= CAP || state.is_excused
            }),
            Property::always("one owner per epoch", |_, state: &State| {
                let epochs = state
                    .nodes
                    .iter()
                    .filter_map(|n| n.owner.as_ref())
                    .map(|o| o.epoch);
                let all: Vec<_> = epochs.collect();
                all.iter().collect::<BTreeSet<_>>().len() == all.len()
            }),
            Property::always("floors never fall", |_, state: &State| !state.floor_fell),
            Property::always("one session per node", |model: &Self, state: &State| {
                let nodes: Vec<_> = model.newest(state).sessions.into_values().collect();
                nodes.iter().collect::<BTreeSet<_>>().len() == nodes.len()
            }),
            // Who is waited for is open, as far as the waiting one knows: the answer or the end
            // of that session comes over the link that defines it.
            Property::always("waits end", |model: &Self, state: &State| {
                (0..N).all(|n| {
                    let Some(owner) = &state.nodes[n].owner else {
                        return true;
                    };
                    let table = model.table(state, n);
                    owner
                        .waiting
                        .iter()
                        .all(|session| table.sessions.contains_key(session))
                })
            }),
            Property::sometimes("takeover", |model: &Self, state: &State| {
                takeovers(model, state) >= 1
            }),
            Property::sometimes("second takeover", |model: &Self, state: &State| {
                takeovers(model, state) >= 2
            }),
            Property::sometimes("adopted within the grace", |_, state: &State| {
                state.has_adopted
            }),
            Property::sometimes("list by relay", |_, state: &State| state.has_relayed),
        ]
    }
}

/// How often the shard has changed its node, with an owner at work there.
fn takeovers(model: &Ownership, state: &State) -> usize {
    if state.nodes.iter().all(|node| node.owner.is_none()) {
        return 0;
    }
    let mut owners: Vec<usize> = Vec::new();
    for end in 1..=state.log.len() {
        let table = Table::of(&state.log[..end], model.has(Plant::OldSessionStaysOpen));
        if let Some(node) = table.sessions.get(&table.owner)
            && owners.last() != Some(node)
        {
            owners.push(*node);
        }
    }
    owners.len().saturating_sub(1)
}
