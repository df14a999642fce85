//! One module per family of kinds, and what they compare with.

pub(crate) mod decider;
pub(crate) mod meters;
pub(crate) mod settings;
pub(crate) mod to_zero;
pub(crate) mod window;

use std::fmt::Debug;

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

    pub(crate) fn number(&mut self, what: &str, want: Option<f64>, got: f64) {
        let Some(want) = want else { return };
        self.n_compared += 1;
        let same = want == got || (want - got).abs() <= self.tolerance;
        if !same {
            self.fail(format!("{what} is {got}, want {want}"));
        }
    }

    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, want: Option<T>, got: T) {
        let Some(want) = want else { return };
        self.n_compared += 1;
        if want != got {
            self.fail(format!("{what} is {got:?}, want {want:?}"));
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
