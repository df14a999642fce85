//! Named moments in the shells at which a test can stop, break or delay a process, and bugs that a
//! test can plant in the product.
//!
//! Without the feature `on`, which only the binary `nihilo-chaos` has, [`hit`] does nothing,
//! [`planted`] is the constant `false`, and nothing of the switches below exists.
//!
//! With it, a directory named by [`DIR_ENV`] is the switchboard. A test arms a point by writing
//! the file `POINT` there; the first thread of any process that comes by takes it, by renaming it to
//! `POINT.PID`, and does what it says:
//!
//! | content | what happens |
//! |---|---|
//! | `stop` | the whole process stops (SIGSTOP); once it runs again this thread waits for `POINT.go` |
//! | `panic` | this thread panics |
//! | `sleep MS` | this thread sleeps |
//! | `fail` | the step fails, where it can ([`fails`]) |
//! | `stop N`, … | the same, but the first N that come by pass |
//!
//! Every point that is passed at all leaves an empty file in `seen/`.

mod bug;
mod point;
#[cfg(feature = "on")]
mod switchboard;

pub use bug::Bug;
pub use point::Point;

/// Names the directory of the switchboard; without it every point is passed.
pub const DIR_ENV: &str = "NIHILO_FAILPOINTS";
/// Names the planted bug.
pub const BUG_ENV: &str = "NIHILO_PLANTED_BUG";

/// Whether this build has failpoints.
pub const IS_ON: bool = cfg!(feature = "on");

/// Comes by `point`. Free in a build without failpoints.
#[inline]
pub fn hit(point: Point) {
    // Nothing fails here.
    let _ = fails(point);
}

/// As [`hit`], where the step itself can be made to fail: `true` = it shall.
#[inline]
pub fn fails(point: Point) -> bool {
    #[cfg(feature = "on")]
    return switchboard::hit(point);
    #[cfg(not(feature = "on"))]
    {
        let _ = point;
        false
    }
}

/// As [`hit`], where it depends on something whether the point is reached at all; `is_there` is
/// not asked in a build without failpoints.
#[inline]
pub fn hit_if(point: Point, is_there: impl FnOnce() -> bool) {
    if IS_ON && is_there() {
        hit(point);
    }
}

/// A number that trials set to see more of a rare thing; `None` in a build without failpoints.
#[inline]
pub fn number(variable: &str) -> Option<u64> {
    match IS_ON {
        true => std::env::var(variable).ok()?.parse().ok(),
        false => None,
    }
}

/// Whether this process has `bug` planted. The constant `false` in a build without failpoints.
#[inline]
pub fn planted(bug: Bug) -> bool {
    #[cfg(feature = "on")]
    return bug::of_process() == Some(bug);
    #[cfg(not(feature = "on"))]
    {
        let _ = bug;
        false
    }
}
