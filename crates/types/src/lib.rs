//! The nouns of Nihilo: names, ids, specs, statuses, conditions, defaults and validation.
//!
//! Everything here is plain data in Knative's `serving.knative.dev/v1` shape plus the few soft
//! types that pass between the shells (instances, endpoints, route table). This crate knows no
//! IO, no clock, no protobuf and no Raft.
#![forbid(unsafe_code)]

pub mod autoscaler;
pub mod bundle;
pub mod condition;
pub mod config_map;
pub mod configuration;
pub mod defaults;
pub mod domain;
pub mod endpoint;
pub mod fence;
pub mod id;
pub mod image;
mod image_reference;
pub mod instance;
pub mod instance_config;
pub mod isolation;
pub mod join_token;
pub mod manifest;
pub mod meta;
pub mod names;
pub mod node_config;
pub mod node_env;
pub mod node_view;
pub mod probe;
pub mod probe_paths;
pub mod quantity;
pub mod revision;
pub mod rollout;
pub mod route;
pub mod route_table;
pub mod sealing;
pub mod secret;
pub mod secret_value;
pub mod service;
pub mod shard;
pub mod sources;
pub mod template;
pub mod time;
pub mod validate;
