//! Container images: the bytes go from a node's engine to that node, and never through the client.

use nihilo_types::bundle::Digest;
use nihilo_wire::serving as pb;
use pb::bundle_service_client::BundleServiceClient;
use pb::push_image_progress::Step;
use pb::share_image_progress::Step as Sharing;
use tokio::time::Instant;
use tonic::Request;

use crate::call::{Client, FIRST_PAUSE, LAST_PAUSE, UNREACHABLE_LIMIT, request_id, unary};
use crate::error::Error;

pub use pb::ImageSaving as Saving;

/// What a push came to.
#[derive(Debug, Clone)]
pub struct PushedImage {
    pub digest: Digest,
    pub index: u64,
    /// Nodes that have its archive.
    pub nodes: Vec<String>,
}

/// What came of an image that a service is about to name.
#[derive(Debug, Clone)]
pub enum SharedImage {
    /// It is the cluster's now.
    Pushed(PushedImage),
    /// Every node can have it already, or nobody is to give it; why.
    NotNeeded(String),
    /// The service will run only where it is; why.
    NotShared(String),
}

impl PushedImage {
    fn of(done: pb::UploadResponse) -> Result<Self, Error> {
        Ok(Self {
            digest: done.digest.parse().map_err(Error::bad_answer)?,
            index: done.index,
            nodes: done.nodes,
        })
    }
}

impl Client {
    /// Has a node give an image of its engine to the cluster: the first of the servers whose engine has it.
    /// `hear` is told how far it is.
    ///
    /// # Errors
    /// None of the servers has it, or the one that has it failed.
    pub async fn push_image(
        &self,
        namespace: &str,
        image: &str,
        mut hear: impl FnMut(&Saving),
    ) -> Result<PushedImage, Error> {
        let mut n_left = self.servers().count();
        loop {
            let server = self.current();
            let pushed = self.push_from(server, namespace, image, &mut hear).await;
            n_left -= 1;
            match pushed {
                Err(error) if n_left > 0 && may_be_elsewhere(&error) => self.leave(server),
                pushed => return pushed,
            }
        }
    }

    async fn push_from(
        &self,
        server: usize,
        namespace: &str,
        image: &str,
        hear: &mut impl FnMut(&Saving),
    ) -> Result<PushedImage, Error> {
        let failed = |status: &tonic::Status| Error::from_status(status, self.address(server));
        let request = pb::PushImageRequest {
            namespace: namespace.into(),
            image: image.into(),
            // An archive may be another one each time: so is the write that makes it known.
            request_id: request_id(),
        };
        let mut client = BundleServiceClient::new(self.channel(server));
        let answer = client.push_image(Request::new(request)).await;
        let mut steps = answer.map_err(|status| failed(&status))?.into_inner();
        while let Some(progress) = steps.message().await.map_err(|status| failed(&status))? {
            match progress.step {
                Some(Step::Saving(saving)) => hear(&saving),
                Some(Step::Done(done)) => return PushedImage::of(done),
                None => {}
            }
        }
        Err(Error::bad_answer("it ended without saying how"))
    }

    /// Has the cluster see to it that every node can have an image that a service is about to name: to be
    /// asked before the service is written. `hear` is told how far it is, where anything is to be done.
    ///
    /// As a write, it is asked for again until a server takes it up or the time is over.
    ///
    /// # Errors
    /// Malformed, or no server answered, or the one that took it up failed and so did the others.
    pub async fn share_image(
        &self,
        namespace: &str,
        image: &str,
        mut hear: impl FnMut(&Saving),
    ) -> Result<SharedImage, Error> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        let mut is_heard = false;
        loop {
            let mut hear = |saving: &Saving| {
                is_heard = true;
                hear(saving);
            };
            let error = match self.share_once(namespace, image, &mut hear).await {
                Err(error) if error.is_retriable() => error,
                shared => return shared,
            };
            let limit = match error.is_unreachable() {
                true => self.timeout().min(UNREACHABLE_LIMIT),
                false => self.timeout(),
            };
            if is_heard || started.elapsed() + pause >= limit {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// One round over the servers.
    async fn share_once(
        &self,
        namespace: &str,
        image: &str,
        hear: &mut impl FnMut(&Saving),
    ) -> Result<SharedImage, Error> {
        let mut n_left = self.servers().count();
        loop {
            let server = self.current();
            let shared = self.share_by(server, namespace, image, hear).await;
            n_left -= 1;
            match shared {
                Err(error) if error.is_retriable() => {
                    self.leave(server);
                    if n_left == 0 {
                        return Err(error);
                    }
                }
                shared => return shared,
            }
        }
    }

    async fn share_by(
        &self,
        server: usize,
        namespace: &str,
        image: &str,
        hear: &mut impl FnMut(&Saving),
    ) -> Result<SharedImage, Error> {
        let failed = |status: tonic::Status| Error::from_status(&status, self.address(server));
        let request = pb::ShareImageRequest {
            namespace: namespace.into(),
            image: image.into(),
            request_id: request_id(),
        };
        let mut client = BundleServiceClient::new(self.channel(server));
        let answer = client.share_image(Request::new(request)).await;
        let mut steps = answer.map_err(failed)?.into_inner();
        while let Some(progress) = steps.message().await.map_err(failed)? {
            match progress.step {
                Some(Sharing::Saving(saving)) => hear(&saving),
                Some(Sharing::Done(done)) => return PushedImage::of(done).map(SharedImage::Pushed),
                Some(Sharing::NotNeeded(why)) => return Ok(SharedImage::NotNeeded(why)),
                Some(Sharing::NotShared(why)) => return Ok(SharedImage::NotShared(why)),
                None => {}
            }
        }
        Err(Error::bad_answer("it ended without saying how"))
    }

    /// Images that were pushed, and nodes that did not say what they have.
    ///
    /// # Errors
    /// No server answered.
    pub async fn images(&self, namespace: Option<&str>) -> Result<pb::ListImagesResponse, Error> {
        let request = pb::ListImagesRequest {
            parent: crate::serving::parent(namespace),
        };
        unary!(self, BundleServiceClient, list_images, request)
    }
}

fn may_be_elsewhere(error: &Error) -> bool {
    error.reason == "IMAGE_ELSEWHERE" || error.is_unreachable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_image_is_shared_as_patiently_as_its_service_is_written() {
        let servers = ["127.0.0.1:1", "127.0.0.1:2"].map(Into::into);
        let client = Client::connect_lazy(servers.into()).unwrap();
        let started = Instant::now();
        let shared = client.share_image("default", "app:v1", |_| {}).await;
        assert!(shared.unwrap_err().is_unreachable());
        assert!(started.elapsed() > LAST_PAUSE);
    }
}
