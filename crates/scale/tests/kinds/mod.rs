//! One module per family of kinds, and what they compare with.

pub(crate) mod decider;
pub(crate) mod fast;
pub(crate) mod meters;
pub(crate) mod refusals;
pub(crate) mod settings;
pub(crate) mod to_zero;
pub(crate) mod window;

use std::fmt::Debug;

use serde::{Deserialize, Deserializer};

/// Compares what is wanted with what came out; absent wants are not compared.
#[derive(Debug)]
pub(crate) struct Checker {
    tolerance: f64,
    place: String,
    n_compared: usize,
    failures: Vec<String>,
}

impl Checker {
    pub(crate) fn new(tolerance: f64) -> Self {
        Self {
            tolerance,
            place: String::new(),
            n_compared: 0,
            failures: Vec::new(),
        }
    }

    /// Names the step that the following comparisons belong to.
    pub(crate) fn at(&mut self, place: impl Debug) {
        self.place = format!("at {place:?}: ");
    }

    /// Any number of the case, whole ones too, within the case's tolerance.
    pub(crate) fn number(&mut self, what: &str, want: Option<f64>, got: impl Into<f64>) {
        let (Some(want), got) = (want, got.into()) else {
            return;
        };
        self.n_compared += 1;
        let same = want == got || (want - got).abs() <= self.tolerance;
        if !same {
            self.fail(format!("{what} is {got}, want {want}"));
        }
    }

    pub(crate) fn count(&mut self, what: &str, want: Option<f64>, got: u64) {
        self.number(what, want, got as f64);
    }

    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, want: Option<T>, got: T) {
        let Some(want) = want else { return };
        self.n_compared += 1;
        if want != got {
            self.fail(format!("{what} is {got:?}, want {want:?}"));
        }
    }

    /// Something that must hold.
    pub(crate) fn holds(&mut self, is_so: bool, otherwise: impl FnOnce() -> String) {
        self.n_compared += 1;
        if !is_so {
            self.fail(otherwise());
        }
    }

    fn fail(&mut self, text: String) {
        self.failures.push(format!("{}{text}", self.place));
    }

    /// All failures; a case that compared nothing is one.
    pub(crate) fn finish(mut self) -> impl Iterator<Item = String> {
        if self.n_compared == 0 {
            self.failures.push("compares nothing".into());
        }
        self.failures.into_iter()
    }
}

/// Ready instances: a number, or `"unknown"`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready(pub(crate) Option<u32>);

impl<'de> Deserialize<'de> for Ready {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Counted(u32),
            Word(String),
        }
        match Written::deserialize(from)? {
            Written::Counted(n) => Ok(Self(Some(n))),
            Written::Word(word) if word == "unknown" => Ok(Self(None)),
            Written::Word(word) => Err(serde::de::Error::custom(format!(
                "n_ready is a number or \"unknown\", not {word:?}"
            ))),
        }
    }
}

/// A member that may be `null`: absent = not compared, `null` = must be absent.
pub(crate) fn present<'de, D, T>(from: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Some)
}
