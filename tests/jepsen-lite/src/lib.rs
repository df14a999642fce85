//! Real node processes under real faults: the promises of fault tolerance, put to the proof.
//!
//! A trial starts three nodes of the shipped binary, puts load on them, hurts them, heals them, and
//! judges what clients and instances wrote down. Nothing here repeats a request or believes a word
//! of the platform that can be had from somewhere else.

pub mod app_fault;
pub mod backend;
pub mod canary;
pub mod clock;
pub mod etcd;
pub mod failpoints;
pub mod gateway_client;
pub mod headline;
pub mod instance_ledger;
pub mod judge;
pub mod matrix;
pub mod nemesis;
pub mod probe;
pub mod proc_scan;
pub mod proxy;
pub mod record;
pub mod report;
pub mod seed;
pub mod settled;
pub mod soak;
pub mod tally;
pub mod trial;
pub mod workload;
