//! A typed client of the admin API (port 7070) that knows several servers.
//!
//! Any node answers any call, so the client stays with one server until it fails, then tries the
//! next. Every write carries a request id that is kept over all attempts: repeating is safe.

mod bundle;
mod call;
mod cluster;
mod config;
mod domain;
mod error;
mod image;
mod secret;
mod serving;
mod watch;

pub use bundle::{Push, Pushed, Upload};
pub use call::{Client, DEFAULT_TIMEOUT};
pub use config::WrittenConfig;
pub use domain::WrittenObject;
pub use error::Error;
pub use image::{PushedImage, Saving, SharedImage};
pub use serving::{Listed, LogStream, Stored, Written};
pub use watch::Watch;

pub use nihilo_wire::serving::write_response::Change;
