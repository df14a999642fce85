//! C1: reads, writes and compare-and-set of each object are linearizable, versions included.
//!
//! Objects are judged one by one: a history is linearizable exactly if each object's part is.

use std::collections::BTreeMap;
use std::fmt;

use crate::checker::linearizable::{Call, End, MAX_CONFIGURATIONS, Model, Search, search};
use crate::checker::verdict::{Evidence, Findings, Verdict};
use crate::history::register::{Action, Answer, RegisterOperation};

pub const NAME: &str = "C1 linearizable";

/// Calls shown from the end of the longest order that works.
const N_SHOWN_BEFORE: usize = 4;

/// What is judged, and how.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub operations: &'a [RegisterOperation],
    pub versions: Versions,
    /// Per key; see [`MAX_CONFIGURATIONS`].
    pub max_configurations: u64,
}

/// Whose writes give an object a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// Only those of the history.
    OfTheHistory,
    /// Also others that keep the value, as status updates do: a version may be newer than the
    /// write whose value it carries.
    AlsoHidden,
}

impl<'a> Input<'a> {
    pub fn new(operations: &'a [RegisterOperation], versions: Versions) -> Self {
        Self {
            operations,
            versions,
            max_configurations: MAX_CONFIGURATIONS,
        }
    }
}

/// Judges every object; unknown when one of them takes more than the budget.
pub fn check(input: &Input<'_>) -> Verdict {
    let mut by_key: BTreeMap<&str, Vec<&RegisterOperation>> = BTreeMap::new();
    for operation in input.operations {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    let mut findings = Findings::default();
    let mut n_checked = 0;
    for (key, operations) in by_key {
        let (calls, shown) = calls(&operations);
        n_checked += calls.len() as u64;
        let model = Register {
            versions: input.versions,
        };
        match search(&model, &calls, input.max_configurations) {
            Search::Linearizable { .. } => {}
            Search::NotLinearizable {
                longest,
                state,
                stuck,
            } => findings.add(evidence(key, &shown, &longest, &state, &stuck)),
            Search::OutOfBudget { n_configurations } => findings.unknown(format!(
                "`{key}`: {} calls, undecided after {n_configurations} configurations",
                calls.len()
            )),
        }
    }
    findings.into_verdict(n_checked)
}

fn evidence(
    key: &str,
    shown: &[&RegisterOperation],
    longest: &[usize],
    state: &str,
    stuck: &[usize],
) -> Evidence {
    let first_end = stuck.iter().filter_map(|&call| shown[call].ended_ns).min();
    let mut evidence = Evidence::new(
        key,
        format!(
            "no order explains the answers: after {} calls the object is {state}, and none of \
             the {} calls that may come next fits",
            longest.len(),
            stuck.len()
        ),
    );
    evidence.at_ns = first_end;
    let skip = longest.len().saturating_sub(N_SHOWN_BEFORE);
    for &call in &longest[skip..] {
        evidence = evidence.witness(format!("before: {}", shown[call]));
    }
    for &call in stuck {
        evidence = evidence.witness(format!("stuck:  {}", shown[call]));
    }
    evidence
}

/// Calls with a possible effect, and the operation each stands for. Failed operations and reads
/// without an answer say nothing about the object.
fn calls<'a>(
    operations: &[&'a RegisterOperation],
) -> (Vec<Call<RegisterOp>>, Vec<&'a RegisterOperation>) {
    let mut values = Values::default();
    let mut calls = Vec::new();
    let mut shown = Vec::new();
    for &operation in operations {
        let Some(op) = values.op(operation) else {
            continue;
        };
        let end = match (&operation.answer, operation.ended_ns) {
            (Answer::Unknown, _) => End::Unknown,
            (_, Some(ended_ns)) => End::At(ended_ns),
            (_, None) => End::TookEffect,
        };
        calls.push(Call {
            op,
            invoked_ns: operation.invoked_ns,
            end,
        });
        shown.push(operation);
    }
    (calls, shown)
}

/// Numbers for values, so that states are small and cheap to compare.
#[derive(Debug, Default)]
struct Values<'a>(BTreeMap<&'a str, u32>);

impl<'a> Values<'a> {
    fn id(&mut self, value: &'a str) -> u32 {
        let next = u32::try_from(self.0.len()).expect("fewer values than 2^32 in a history");
        *self.0.entry(value).or_insert(next)
    }

    fn op(&mut self, operation: &'a RegisterOperation) -> Option<RegisterOp> {
        let version = match &operation.answer {
            Answer::Failed => return None,
            Answer::Conflict => return Some(RegisterOp::Conflict(expectation(&operation.action))),
            Answer::Read(seen) => {
                let seen = seen
                    .as_ref()
                    .map(|seen| (self.id(&seen.value), seen.version));
                return Some(RegisterOp::Read(seen));
            }
            Answer::Unknown => None,
            Answer::Written { version } => *version,
        };
        let value = operation.action.written_value()?;
        let value = value.map(|value| self.id(value));
        Some(RegisterOp::Write {
            expectation: expectation(&operation.action),
            value,
            version,
        })
    }
}

fn expectation(action: &Action) -> Expectation {
    match action {
        Action::Get | Action::Put { .. } => Expectation::Any,
        Action::Create { .. } => Expectation::Absent,
        Action::Delete { expected: None } => Expectation::Present,
        Action::Cas { expected, .. }
        | Action::Delete {
            expected: Some(expected),
        } => Expectation::Version(*expected),
    }
}

/// An operation together with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterOp {
    Read(Option<(u32, Option<u64>)>),
    Write {
        expectation: Expectation,
        /// `None` removes the object.
        value: Option<u32>,
        version: Option<u64>,
    },
    /// A write that was refused because its expectation did not hold.
    Conflict(Expectation),
}

/// What must be true of the object for a write to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    Any,
    Absent,
    Present,
    Version(u64),
}

/// The sequential object: one value under a version that only grows.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    pub versions: Versions,
}

/// The value, and what is known of its version (of the removal, when there is none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegisterState {
    value: Option<u32>,
    version_at_least: u64,
    version_is_exact: bool,
}

impl Register {
    /// The version is `version`: is that possible, and what is known then?
    fn pin(self, state: RegisterState, version: u64) -> Option<RegisterState> {
        let fits = if state.version_is_exact {
            version == state.version_at_least
        } else {
            version >= state.version_at_least
        };
        fits.then_some(RegisterState {
            version_at_least: version,
            version_is_exact: self.versions == Versions::OfTheHistory,
            ..state
        })
    }

    /// `expectation` holds in `state`: is that possible, and what is known then?
    fn expect(self, state: RegisterState, expectation: Expectation) -> Option<RegisterState> {
        match expectation {
            Expectation::Any => Some(state),
            Expectation::Absent => state.value.is_none().then_some(state),
            Expectation::Present => state.value.is_some().then_some(state),
            Expectation::Version(version) => {
                state.value?;
                self.pin(state, version)
            }
        }
    }

    /// Whether `expectation` may have failed to hold in `state`.
    fn may_conflict(self, state: RegisterState, expectation: Expectation) -> bool {
        match expectation {
            Expectation::Any => false,
            Expectation::Absent => state.value.is_some(),
            Expectation::Present => state.value.is_none(),
            Expectation::Version(version) => {
                let holds_for_sure = state.value.is_some()
                    && state.version_is_exact
                    && state.version_at_least == version;
                !holds_for_sure
            }
        }
    }

    fn write(
        self,
        state: RegisterState,
        value: Option<u32>,
        version: Option<u64>,
    ) -> Option<RegisterState> {
        let is_exact = self.versions == Versions::OfTheHistory && version.is_some();
        let version_at_least = match version {
            Some(version) if version <= state.version_at_least => return None,
            Some(version) => version,
            // One more each time would be sharper, and would give every order of unknown writes
            // a state of its own.
            None => state
                .version_at_least
                .saturating_add(u64::from(state.version_is_exact)),
        };
        Some(RegisterState {
            value,
            version_at_least,
            version_is_exact: is_exact,
        })
    }
}

impl Model for Register {
    type Op = RegisterOp;
    type State = RegisterState;

    fn initial(&self) -> RegisterState {
        RegisterState {
            value: None,
            version_at_least: 0,
            version_is_exact: self.versions == Versions::OfTheHistory,
        }
    }

    fn step(&self, state: &RegisterState, op: &RegisterOp) -> Option<RegisterState> {
        match *op {
            RegisterOp::Read(None) => state.value.is_none().then_some(*state),
            RegisterOp::Read(Some((value, version))) => {
                if state.value != Some(value) {
                    return None;
                }
                match version {
                    Some(version) => self.pin(*state, version),
                    None => Some(*state),
                }
            }
            RegisterOp::Conflict(expectation) => {
                self.may_conflict(*state, expectation).then_some(*state)
            }
            RegisterOp::Write {
                expectation,
                value,
                version,
            } => {
                let state = self.expect(*state, expectation)?;
                self.write(state, value, version)
            }
        }
    }

    fn only_observes(&self, op: &RegisterOp) -> bool {
        matches!(op, RegisterOp::Read(_) | RegisterOp::Conflict(_))
    }
}

impl fmt::Display for RegisterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = if self.version_is_exact {
            "at"
        } else {
            "at or after"
        };
        match self.value {
            None => write!(f, "absent, {relation} v{}", self.version_at_least),
            Some(value) => write!(f, "value #{value}, {relation} v{}", self.version_at_least),
        }
    }
}

#[cfg(test)]
#[path = "register_test.rs"]
mod tests;
