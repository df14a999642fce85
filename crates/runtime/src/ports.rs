//! What the agent needs from the node's gateway.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use nihilo_types::id::InstanceId;
use nihilo_types::instance::InstanceSpec;

/// The home node's limiter: the sole way to an instance.
pub trait Admission: Send + Sync + 'static {
    /// The instance is ready: requests may be admitted.
    fn open(&self, spec: &InstanceSpec, address: SocketAddr);
    /// As [`Self::open`] and closed at once: it is there, admits nothing before a re-open, and what was
    /// connected to it is not any more. Nothing may be in flight.
    fn hold(&self, spec: &InstanceSpec, address: SocketAddr);
    /// Nothing new is admitted from now on; what runs goes on.
    fn close(&self, id: &InstanceId);
    /// Calls [`Self::close`] off.
    fn reopen(&self, id: &InstanceId);
    fn forget(&self, id: &InstanceId);
    fn in_flight(&self, id: &InstanceId) -> u32;
    /// Resolves once nothing is in flight.
    fn drained(&self, id: &InstanceId) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
