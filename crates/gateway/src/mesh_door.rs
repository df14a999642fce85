//! The way in for other nodes' gateways, and how it is closed without cutting anything off.
//!
//! ```text
//! open ── close_to_tunnels ── close ──> refuses what is new, answers what runs for those who are there
//!                                        └─ say_goodbye ──> each connection that was there ends with its
//!                                                           last byte
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::limiter::Refusal;

/// What is let in, the more the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LetIn {
    Nothing,
    /// Each ends by itself.
    Requests,
    /// And tunnels.
    Tunnels,
}

/// What the connections are told, the more the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Closed,
    Goodbye,
}

#[derive(Debug)]
pub(crate) struct MeshDoor {
    open: RwLock<LetIn>,
    /// Requests that came to the closed door.
    n_refused: AtomicU64,
    told: watch::Sender<Told>,
    /// Watched by each connection that came before the goodbye.
    inside: watch::Sender<()>,
}

/// A connection that the goodbye waits for.
#[derive(Debug)]
pub(crate) struct Inside {
    told: watch::Receiver<Told>,
    alive: watch::Receiver<()>,
}

impl Default for MeshDoor {
    fn default() -> Self {
        Self {
            open: RwLock::new(LetIn::Tunnels),
            n_refused: AtomicU64::new(0),
            told: watch::channel(Told::Nothing).0,
            inside: watch::channel(()).0,
        }
    }
}

impl MeshDoor {
    /// Admits what it is open to: after [`Self::close`] returns nothing is being admitted any more.
    ///
    /// # Errors
    /// It is closed, or `admit`'s.
    pub(crate) fn pass<T>(
        &self,
        what: LetIn,
        admit: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let open = self.open.read();
        if what <= *open {
            return admit();
        }
        self.n_refused.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::Draining)
    }

    /// Nothing is let in any more that does not end by itself.
    pub(crate) fn close_to_tunnels(&self) {
        *self.open.write() = LetIn::Requests;
    }

    pub(crate) fn close(&self) {
        *self.open.write() = LetIn::Nothing;
        self.told.send_replace(Told::Closed);
    }

    /// Connections that came before the goodbye and have not ended.
    pub(crate) fn n_inside(&self) -> usize {
        self.inside.receiver_count()
    }

    pub(crate) fn n_refused(&self) -> u64 {
        self.n_refused.load(Ordering::Relaxed)
    }

    /// `None` once the goodbye was said: whoever comes then is refused, and not waited for.
    pub(crate) fn enter(&self) -> Option<Inside> {
        // First, so that the goodbye either waits for it or was seen.
        let alive = self.inside.subscribe();
        let told = self.told.subscribe();
        let is_said = *told.borrow() == Told::Goodbye;
        (!is_said).then_some(Inside { told, alive })
    }

    /// Returns once all that came before have ended.
    pub(crate) async fn say_goodbye(&self) {
        self.told.send_replace(Told::Goodbye);
        self.inside.closed().await;
    }
}

impl Inside {
    /// Resolves once nobody new is let in.
    pub(crate) async fn closed(&self) {
        self.told(Told::Closed).await;
    }

    /// Resolves with the goodbye.
    pub(crate) async fn told_to_go(&self) {
        self.told(Told::Goodbye).await;
    }

    async fn told(&self, what: Told) {
        let mut told = self.told.clone();
        if told.wait_for(|told| *told >= what).await.is_err() {
            // The gateway is gone, and everything of it.
            std::future::pending::<()>().await;
        }
    }

    /// It has ended.
    pub(crate) fn leave(self) {
        drop(self.alive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_door_admits_nothing_and_counts_who_came() {
        let door = MeshDoor::default();
        let pass = |what| door.pass(what, || Ok(()));
        assert_eq!(
            (pass(LetIn::Tunnels), pass(LetIn::Requests)),
            (Ok(()), Ok(()))
        );
        let busy = door.pass(LetIn::Requests, || Err::<(), _>(Refusal::Busy));
        assert_eq!(busy, Err(Refusal::Busy));
        door.close_to_tunnels();
        let refused = Err(Refusal::Draining);
        assert_eq!(
            (pass(LetIn::Tunnels), pass(LetIn::Requests)),
            (refused, Ok(()))
        );
        door.close();
        assert_eq!(
            (pass(LetIn::Tunnels), pass(LetIn::Requests)),
            (refused, refused)
        );
        assert_eq!(door.n_refused(), 3);
    }

    #[tokio::test]
    async fn the_goodbye_waits_for_those_who_came_before_it_and_for_no_other() {
        let door = std::sync::Arc::new(MeshDoor::default());
        let first = door.enter().unwrap();
        door.close();
        first.closed().await;
        assert_eq!(door.n_inside(), 1);
        let saying = tokio::spawn({
            let door = door.clone();
            async move { door.say_goodbye().await }
        });
        first.told_to_go().await;
        assert!(door.enter().is_none());
        tokio::task::yield_now().await;
        assert!(!saying.is_finished());
        first.leave();
        saying.await.unwrap();
    }
}
