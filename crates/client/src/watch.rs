//! A watch that survives its server: it goes on at another one, after the last event seen.

use nihilo_wire::serving as pb;
use pb::serving_service_client::ServingServiceClient;
use tonic::{Request, Streaming};

use crate::call::{Client, FIRST_PAUSE};
use crate::error::Error;

/// Changes in order, each once. Bookmarks are taken note of and not handed out.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    request: pb::WatchRequest,
    open: Option<Open>,
    place: Place,
}

#[derive(Debug)]
struct Open {
    stream: Streaming<pb::WatchEvent>,
    server: usize,
}

impl Watch {
    pub(crate) fn new(client: Client, request: pb::WatchRequest) -> Self {
        let place = Place {
            after: request.resource_version,
            ..Place::default()
        };
        Self {
            client,
            request,
            open: None,
            place,
        }
    }

    /// Returns the next change. May be dropped while waiting and called again.
    ///
    /// # Errors
    /// `VERSION_COMPACTED`: list again and watch from there. Otherwise no server answered.
    pub async fn next(&mut self) -> Result<pb::WatchEvent, Error> {
        loop {
            if self.open.is_none() {
                self.open = Some(self.connect().await?);
            }
            let Some(open) = &mut self.open else { continue };
            let server = open.server;
            match open.stream.message().await {
                Ok(Some(event)) => {
                    if let Some(event) = self.place.take(event) {
                        return Ok(event);
                    }
                }
                Ok(None) => self.reopen_elsewhere(server).await,
                Err(status) => {
                    let error = Error::from_status(&status, self.client.address(server));
                    self.open = None;
                    if error.reason != "WATCH_LAGGING" && !error.is_retriable() {
                        return Err(error);
                    }
                    self.reopen_elsewhere(server).await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Open, Error> {
        let message = pb::WatchRequest {
            resource_version: self.place.resume(),
            ..self.request.clone()
        };
        let client = &self.client;
        let (stream, server) = client
            .call(|channel| {
                let request = Request::new(message.clone());
                let server = client.current();
                async move {
                    let answer = ServingServiceClient::new(channel).watch(request).await?;
                    Ok(answer.map(|stream| (stream, server)))
                }
            })
            .await?;
        Ok(Open { stream, server })
    }

    /// The pause bounds how often a server that ends streams at once is asked.
    async fn reopen_elsewhere(&mut self, server: usize) {
        self.open = None;
        self.client.leave(server);
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

/// How far a watch has come. One log entry may change several objects, so a place is an index
/// and a number of events within it.
#[derive(Debug, Default)]
struct Place {
    /// Everything up to here was handed out.
    after: u64,
    /// The entry that may still have more events; 0 = none.
    index: u64,
    n_seen: usize,
    /// Events of `index` that are still to be passed over after a reconnect.
    n_skip: usize,
}

impl Place {
    fn take(&mut self, event: pb::WatchEvent) -> Option<pb::WatchEvent> {
        if event.r#type() == pb::watch_event::Type::Bookmark {
            *self = Self {
                after: self.after.max(event.index),
                ..Self::default()
            };
            return None;
        }
        if event.index <= self.after {
            return None;
        }
        if event.index != self.index {
            *self = Self {
                after: event.index - 1,
                index: event.index,
                n_seen: 0,
                n_skip: 0,
            };
        }
        if self.n_skip > 0 {
            self.n_skip -= 1;
            return None;
        }
        self.n_seen += 1;
        Some(event)
    }

    /// Returns the version to watch from on a new stream.
    fn resume(&mut self) -> u64 {
        self.n_skip = self.n_seen;
        self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, kind: &str) -> pb::WatchEvent {
        pb::WatchEvent {
            r#type: pb::watch_event::Type::Modified.into(),
            kind: kind.into(),
            index,
            ..Default::default()
        }
    }

    fn bookmark(index: u64) -> pb::WatchEvent {
        pb::WatchEvent {
            r#type: pb::watch_event::Type::Bookmark.into(),
            index,
            ..Default::default()
        }
    }

    #[test]
    fn a_reconnect_in_the_middle_of_an_entry_loses_and_repeats_nothing() {
        let mut place = Place {
            after: 10,
            ..Place::default()
        };
        assert!(place.take(event(12, "a")).is_some());
        assert!(place.take(event(12, "b")).is_some());
        assert_eq!(place.resume(), 11);
        let again: Vec<_> = [
            event(12, "a"),
            event(12, "b"),
            event(12, "c"),
            event(13, "d"),
        ]
        .into_iter()
        .filter_map(|event| place.take(event))
        .map(|event| event.kind)
        .collect();
        assert_eq!(again, ["c", "d"]);
    }

    #[test]
    fn a_bookmark_moves_the_place() {
        let mut place = Place {
            after: 10,
            ..Place::default()
        };
        assert!(place.take(event(12, "a")).is_some());
        assert!(place.take(bookmark(20)).is_none());
        assert_eq!(place.resume(), 20);
        assert!(place.take(event(21, "b")).is_some());
    }
}
