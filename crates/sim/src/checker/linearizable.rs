//! The search behind C1: is there one order of the calls that their times allow and the model
//! accepts?
//!
//! Wing and Gong's search with Lowe's memo: a configuration is (calls that took effect, state),
//! and none is explored twice. Calls with an unknown outcome may take effect at any time or
//! never, so they double the configurations each; here one is dropped when another with the same
//! required calls and state has used *fewer* of them, since whatever the one can still do, the
//! other can too. That keeps the search close to linear in practice.
//!
//! Source: Wing, Gong: "Testing and verifying concurrent objects" (1993); Lowe: "Testing for
//! linearizability" (2017), §4.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

/// A sequential object.
pub trait Model {
    type Op;
    type State: Clone + Eq + Hash + fmt::Display;

    fn initial(&self) -> Self::State;

    /// The state after `op`, or `None` when `op` cannot have answered what it did.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether `op` can never change the object, in whatever state; it may still teach `step`
    /// something about the state, which only narrows what can follow.
    fn only_observes(&self, op: &Self::Op) -> bool;
}

/// One call of the history. A call that certainly had no effect is left out by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<Op> {
    pub op: Op,
    pub invoked_ns: u64,
    pub end: End,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It took effect before this time.
    At(u64),
    /// It took effect, as the log shows, at any time after its invocation.
    TookEffect,
    /// It may take effect at any time after its invocation, or never.
    Unknown,
}

/// Configurations explored per key before the answer is "unknown": a minute of work at worst. A
/// valid history of 200 calls needs a few hundred.
pub const MAX_CONFIGURATIONS: u64 = 2_000_000;

/// What the search found. Positions are those of the given calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    Linearizable {
        /// A witness: the calls in the order they took effect.
        order: Vec<usize>,
        n_configurations: u64,
    },
    NotLinearizable {
        /// The longest order that works.
        longest: Vec<usize>,
        /// The state after it.
        state: String,
        /// Calls of which one had to come next, and none can.
        stuck: Vec<usize>,
    },
    OutOfBudget {
        n_configurations: u64,
    },
}

/// Searches for an order of `calls`, exploring at most `max_configurations`.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Op>], max_configurations: u64) -> Search {
    Wgl::new(model, calls).run(max_configurations)
}

/// Set of positions among the required, or among the unknown, calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn empty(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)].into())
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn with(&self, at: usize) -> Self {
        let mut bits = self.clone();
        bits.0[at / 64] |= 1 << (at % 64);
        bits
    }

    fn is_subset_of(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & !b == 0)
    }
}

struct Configuration<S> {
    required_done: Bits,
    n_required_done: usize,
    unknown_done: Bits,
    state: S,
    /// Position in `steps` of the step that led here.
    last_step: Option<usize>,
}

/// How a configuration was reached, kept for the witness.
struct Step {
    call: usize,
    before: Option<usize>,
}

struct Wgl<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    /// Calls that must take effect, and those that may, each in order of invocation.
    required: Vec<usize>,
    unknown: Vec<usize>,
    /// Required calls done and state → the smallest sets of unknown calls that got there.
    seen: HashMap<(Bits, M::State), Vec<Bits>>,
    open: Vec<Configuration<M::State>>,
    steps: Vec<Step>,
}

impl<'a, M: Model> Wgl<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op>]) -> Self {
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|&call| calls[call].invoked_ns);
        let (unknown, required): (Vec<usize>, Vec<usize>) = order
            .into_iter()
            .partition(|&call| calls[call].end == End::Unknown);
        let start = Configuration {
            required_done: Bits::empty(required.len()),
            n_required_done: 0,
            unknown_done: Bits::empty(unknown.len()),
            state: model.initial(),
            last_step: None,
        };
        Self {
            model,
            calls,
            required,
            unknown,
            seen: HashMap::new(),
            open: vec![start],
            steps: Vec::new(),
        }
    }

    fn run(mut self, max_configurations: u64) -> Search {
        let mut n_configurations = 0;
        let mut furthest: Option<Configuration<M::State>> = None;
        while let Some(configuration) = self.open.pop() {
            if configuration.n_required_done == self.required.len() {
                return Search::Linearizable {
                    order: self.order(configuration.last_step),
                    n_configurations,
                };
            }
            n_configurations += 1;
            if n_configurations > max_configurations {
                return Search::OutOfBudget { n_configurations };
            }
            self.expand(&configuration);
            let is_further = furthest
                .as_ref()
                .is_none_or(|furthest| configuration.n_required_done > furthest.n_required_done);
            if is_further {
                furthest = Some(configuration);
            }
        }
        let furthest = furthest.expect("the start is explored when any call is required");
        Search::NotLinearizable {
            longest: self.order(furthest.last_step),
            state: furthest.state.to_string(),
            stuck: self.candidates(&furthest),
        }
    }

    /// Required calls that may come next: none that is still missing ended before they began.
    fn candidates(&self, configuration: &Configuration<M::State>) -> Vec<usize> {
        let missing = |&at: &usize| !configuration.required_done.has(at);
        let window_end = self.window_end(configuration);
        (0..self.required.len())
            .filter(missing)
            .map(|at| self.required[at])
            .take_while(|&call| self.calls[call].invoked_ns <= window_end)
            .collect()
    }

    /// First end among the missing required calls.
    fn window_end(&self, configuration: &Configuration<M::State>) -> u64 {
        let mut end = u64::MAX;
        for (at, &call) in self.required.iter().enumerate() {
            if self.calls[call].invoked_ns > end {
                break;
            }
            if !configuration.required_done.has(at)
                && let End::At(ended_ns) = self.calls[call].end
            {
                end = end.min(ended_ns);
            }
        }
        end
    }

    fn expand(&mut self, configuration: &Configuration<M::State>) {
        let window_end = self.window_end(configuration);
        let mut next: Vec<usize> = (0..self.required.len())
            .take_while(|&at| self.calls[self.required[at]].invoked_ns <= window_end)
            .filter(|&at| !configuration.required_done.has(at))
            .collect();
        // An observation that fits now and teaches nothing is taken now: whatever order works with
        // it later works with it here. Reads, most of a history, then cost no branching. Not so a
        // write that happens to leave the state as it is: it may have to undo another one later.
        let is_free = |&at: &usize| {
            let op = &self.calls[self.required[at]].op;
            self.model.only_observes(op)
                && self.model.step(&configuration.state, op).as_ref() == Some(&configuration.state)
        };
        if let Some(at) = next.iter().copied().find(is_free) {
            self.try_required(configuration, at);
            return;
        }
        // The stack hands out the last pushed first: unknown calls are tried when nothing else
        // works, and of the required ones the first to end is tried first.
        for at in (0..self.unknown.len()).rev() {
            let call = self.unknown[at];
            if self.calls[call].invoked_ns <= window_end && !configuration.unknown_done.has(at) {
                let unknown_done = configuration.unknown_done.with(at);
                let required_done = configuration.required_done.clone();
                self.try_step(configuration, call, required_done, unknown_done, 0);
            }
        }
        next.sort_by_key(|&at| match self.calls[self.required[at]].end {
            End::At(ended_ns) => std::cmp::Reverse(ended_ns),
            End::TookEffect | End::Unknown => std::cmp::Reverse(u64::MAX),
        });
        for at in next {
            self.try_required(configuration, at);
        }
    }

    fn try_required(&mut self, before: &Configuration<M::State>, at: usize) {
        let required_done = before.required_done.with(at);
        let unknown_done = before.unknown_done.clone();
        self.try_step(before, self.required[at], required_done, unknown_done, 1);
    }

    fn try_step(
        &mut self,
        before: &Configuration<M::State>,
        call: usize,
        required_done: Bits,
        unknown_done: Bits,
        n_more_required: usize,
    ) {
        let Some(state) = self.model.step(&before.state, &self.calls[call].op) else {
            return;
        };
        let smallest = self
            .seen
            .entry((required_done.clone(), state.clone()))
            .or_default();
        if smallest.iter().any(|used| used.is_subset_of(&unknown_done)) {
            return;
        }
        smallest.retain(|used| !unknown_done.is_subset_of(used));
        smallest.push(unknown_done.clone());
        self.steps.push(Step {
            call,
            before: before.last_step,
        });
        self.open.push(Configuration {
            required_done,
            n_required_done: before.n_required_done + n_more_required,
            unknown_done,
            state,
            last_step: Some(self.steps.len() - 1),
        });
    }

    fn order(&self, last_step: Option<usize>) -> Vec<usize> {
        let mut order = Vec::new();
        let mut at = last_step;
        while let Some(step) = at.map(|at| &self.steps[at]) {
            order.push(step.call);
            at = step.before;
        }
        order.reverse();
        order
    }
}
