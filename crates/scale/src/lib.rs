//! Knative's KPA maths, pure: numbers and `now` in, a number of instances out. No clock, no IO.
//!
//! Source: `knative/serving` v1.23, `pkg/autoscaler/{scaling,aggregation,config}`; what differs is
//! marked. Times are milliseconds of one monotonic clock of the caller's.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod burst;
pub mod config;
pub mod decider;
pub mod fast;
pub mod integrator;
pub mod max_window;
pub mod resolve;
pub mod to_zero;
pub mod window;
