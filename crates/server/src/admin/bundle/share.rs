//! An image that a service is about to name: whether it goes into the cluster by itself, and out of whose
//! engine (decision 0107).
//!
//! Asked before the service is written, since a revision pins what is known when it is made. No answer
//! stands in the way of the write.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use nihilo_types::bundle::{BundleReference, Digest};
use nihilo_types::image::Reference;
use nihilo_wire::serving as pb;
use pb::push_image_progress::Step as Pushing;
use pb::share_image_progress::Step;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{info, warn};

use super::super::error;
use super::BundleApi;
use super::engines::{Held, Says};

/// Messages that a caller may lag behind; older ones are of no use.
const MAX_LAG: usize = 4;
/// Of an id in words for people.
const SHORT_ID: usize = 19;

pub(super) type Progress = ReceiverStream<Result<pb::ShareImageProgress, Status>>;
type Sender = mpsc::Sender<Result<pb::ShareImageProgress, Status>>;

/// What is to become of an image.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    NotNeeded(&'static str),
    NotShared(String),
    /// The node of this name gives it.
    By(String),
}

/// What the cluster has under an image's name.
#[derive(Debug, Clone, Copy)]
struct Pushed {
    /// The engines' id of it.
    id: Digest,
    /// A live node has its archive.
    is_held: bool,
}

/// Decides by what each live node says, whoever prefers to give it first; `n_members` counts the nodes that
/// belong to the cluster, those that are down among them.
///
/// Only what everybody means by the name is given: with two images of one name nobody knows which is the
/// right one.
fn decide(nodes: &[(String, Says)], pushed: Option<Pushed>, n_members: usize) -> Verdict {
    let holders: Vec<_> = nodes.iter().filter_map(holder).collect();
    let ids: BTreeSet<_> = holders.iter().map(|(_, held)| held.id).collect();
    let Some(id) = ids.first() else {
        return Verdict::NotNeeded("no engine has it");
    };
    let is_in_registry = |(_, held): &(&str, &Held)| held.is_in_registry;
    if holders.iter().all(is_in_registry) {
        return Verdict::NotNeeded("a registry has it");
    }
    // One that was made anew beside what others have pulled is not to be passed over.
    if ids.len() > 1 {
        return Verdict::NotShared(differing(&holders, pushed));
    }
    if holders.iter().any(is_in_registry) {
        return Verdict::NotNeeded("a registry has it");
    }
    if pushed.is_some_and(|pushed| pushed.id == *id && pushed.is_held) {
        return Verdict::NotNeeded("the cluster has it");
    }
    let need_none = nodes
        .iter()
        .filter(|(_, says)| matches!(says, Says::Has(_) | Says::NoEngine));
    // A revision would pin what was pushed, which is another one, or which nobody has.
    if pushed.is_none() && need_none.count() >= n_members {
        return Verdict::NotNeeded("every node has it");
    }
    let Some((node, held)) = holders.into_iter().find(|(_, held)| held.is_shared) else {
        return Verdict::NotNeeded("`docker.share-images` is off where it is");
    };
    match &held.refusal {
        Some(why) => Verdict::NotShared(why.clone()),
        None => Verdict::By(node.to_owned()),
    }
}

fn holder((node, says): &(String, Says)) -> Option<(&str, &Held)> {
    match says {
        Says::Has(held) => Some((node, held)),
        Says::Lacks | Says::NoEngine | Says::Nothing => None,
    }
}

fn differing(holders: &[(&str, &Held)], pushed: Option<Pushed>) -> String {
    let short = |id: Digest| id.to_string().chars().take(SHORT_ID).collect::<String>();
    let each = holders
        .iter()
        .map(|(node, held)| format!("{node} {}", short(held.id)));
    let each: Vec<_> = each.collect();
    let counts = match pushed {
        Some(pushed) => format!("{}, which was pushed, counts", short(pushed.id)),
        None => "each node runs its own".to_owned(),
    };
    format!(
        "nodes have different images of this name ({}), and {counts}; push the right one with `nihilo image \
         push`",
        each.join(", ")
    )
}

impl BundleApi {
    /// Goes on beside the answer, for as long as somebody reads it.
    ///
    /// # Errors
    /// Malformed.
    pub(super) fn share_image(&self, request: pb::ShareImageRequest) -> Result<Progress, Status> {
        let image = Reference::parse(&request.image);
        let image = image.map_err(|why| error::invalid("MALFORMED", why))?;
        let (sender, receiver) = mpsc::channel(MAX_LAG);
        let api = self.clone();
        nihilo_actors::task::spawn("image-share", async move {
            let last = tokio::select! {
                biased;
                // Nobody waits for it any more.
                () = sender.closed() => return,
                last = api.shared(&image, request, &sender) => last,
            };
            // A client that stops reading holds nobody up.
            drop(sender.send(Ok(progress(last))).await);
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// The last word about it.
    async fn shared(
        &self,
        image: &Reference,
        request: pb::ShareImageRequest,
        sender: &Sender,
    ) -> Step {
        let Some(name) = BundleReference::of_image(image) else {
            return Step::NotNeeded("it is named by a digest".into());
        };
        if !self.collector.shares_images() {
            return Step::NotNeeded("`docker.share-images` is off here".into());
        }
        let asked = self.ask_all(image);
        let (nodes, pushed) = tokio::join!(asked, self.pushed(&request.namespace, &name));
        let said: Vec<_> = nodes
            .iter()
            .map(|node| (node.name.clone(), node.says()))
            .collect();
        let node = match decide(&said, pushed, self.n_members()) {
            Verdict::NotNeeded(why) => return Step::NotNeeded(why.into()),
            Verdict::NotShared(why) => {
                warn!(%image, why, "an image of a service is not on every node");
                return Step::NotShared(why);
            }
            Verdict::By(node) => node,
        };
        info!(%image, node, "an image of a service goes into the cluster");
        let by = nodes.iter().find(|asked| asked.name == node);
        let address = by.map_or(&self.peer_address, |by| &by.peer_address);
        let request = pb::PushImageRequest {
            namespace: request.namespace,
            image: request.image,
            request_id: request.request_id,
        };
        let given = self.have_pushed(address, request, sender).await;
        given.map_or_else(|why| not_given(&node, &why), Step::Done)
    }

    /// What was pushed under this name.
    async fn pushed(&self, namespace: &str, name: &BundleReference) -> Option<Pushed> {
        let (bundle, _) = self
            .raft()
            .state()
            .read(|state| super::find(state, namespace, name))?;
        let id = bundle.manifest.image_id?;
        let digest = bundle.digest.to_string();
        let (held, _) = self.held(BTreeSet::from([digest.clone()])).await;
        let is_held = held.contains_key(&digest);
        Some(Pushed { id, is_held })
    }

    fn n_members(&self) -> usize {
        self.raft().state().read(|state| {
            let members = state.members().filter(|member| !member.is_removed());
            members.count()
        })
    }

    /// Has the node at this peer address give it, which may be this one.
    async fn have_pushed(
        &self,
        address: &str,
        request: pb::PushImageRequest,
        sender: &Sender,
    ) -> Result<pb::UploadResponse, String> {
        let said = |status: Status| status.message().to_owned();
        let mut steps = match address == self.peer_address {
            true => self.push_image(request).await.map_err(said)?.boxed(),
            false => {
                let mut client = self.source.client(address)?;
                let steps = client.push_image(request).await.map_err(said)?;
                steps.into_inner().boxed()
            }
        };
        while let Some(step) = steps.next().await {
            match step.map_err(said)?.step {
                // Whoever lags behind hears the next one.
                Some(Pushing::Saving(saving)) => {
                    drop(sender.try_send(Ok(progress(Step::Saving(saving)))));
                }
                Some(Pushing::Done(done)) => return Ok(done),
                None => {}
            }
        }
        Err("it ended without saying how".into())
    }
}

fn not_given(node: &str, why: &str) -> Step {
    warn!(node, why, "an image of a service was not given");
    Step::NotShared(format!("{node} does not give it: {why}"))
}

fn progress(step: Step) -> pb::ShareImageProgress {
    pb::ShareImageProgress { step: Some(step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(of: &str) -> Digest {
        Digest::of(of.as_bytes())
    }

    fn held(of: &str) -> Held {
        Held {
            id: id(of),
            is_in_registry: false,
            is_shared: true,
            refusal: None,
        }
    }

    fn has(of: &str) -> Says {
        Says::Has(held(of))
    }

    fn not_shared() -> Says {
        Says::Has(Held {
            is_shared: false,
            ..held("a")
        })
    }

    /// An image that was pushed, and whose archive nobody has any more.
    const LOST: &str = "lost";

    /// Three members; who is not named is down.
    fn decided(says: &[Says], of_pushed: Option<&str>) -> Verdict {
        let nodes = says.iter().enumerate();
        let nodes: Vec<_> = nodes
            .map(|(i, says)| (format!("node{}", i + 1), says.clone()))
            .collect();
        let pushed = |of| Pushed {
            id: id(of),
            is_held: of != LOST,
        };
        decide(&nodes, of_pushed.map(pushed), 3)
    }

    fn by(node: &str) -> Verdict {
        Verdict::By(node.into())
    }

    #[test]
    fn what_some_nodes_lack_is_given_by_the_first_that_has_it() {
        let lacks = Says::Lacks;
        let cases = [
            (vec![has("a"), lacks.clone(), lacks.clone()], None, "node1"),
            (vec![lacks.clone(), lacks.clone(), has("a")], None, "node3"),
            (vec![lacks.clone(), has("a"), has("a")], None, "node2"),
            // One that is down, or says nothing, may come to need it.
            (vec![has("a"), has("a")], None, "node1"),
            (vec![has("a"), has("a"), Says::Nothing], None, "node1"),
            // Made anew under the same name: everybody means this one now.
            (vec![lacks.clone(), has("b"), has("b")], Some("a"), "node2"),
            (vec![has("b"), has("b"), has("b")], Some("a"), "node1"),
            (
                vec![lacks.clone(), has(LOST), lacks.clone()],
                Some(LOST),
                "node2",
            ),
            (vec![has(LOST), has(LOST), has(LOST)], Some(LOST), "node1"),
        ];
        for (says, pushed, node) in cases {
            assert_eq!(decided(&says, pushed), by(node), "{says:?}");
        }
        assert_eq!(decided(&[lacks, not_shared(), has("a")], None), by("node3"));
    }

    #[test]
    fn what_is_everywhere_known_or_a_registrys_is_left_alone() {
        let (lacks, none) = (Says::Lacks, Says::NoEngine);
        let pulled = Says::Has(Held {
            is_in_registry: true,
            ..held("a")
        });
        let cases = [
            (vec![], None, "no engine"),
            (
                vec![lacks.clone(), none.clone(), Says::Nothing],
                None,
                "no engine",
            ),
            (vec![has("a"), has("a"), has("a")], None, "every node"),
            (vec![has("a"), none.clone(), none], None, "every node"),
            (
                vec![has("a"), lacks.clone(), lacks.clone()],
                Some("a"),
                "the cluster",
            ),
            (
                vec![pulled.clone(), lacks.clone(), lacks.clone()],
                None,
                "a registry",
            ),
            (vec![has("a"), pulled, lacks.clone()], None, "a registry"),
            (
                vec![not_shared(), lacks.clone(), lacks],
                None,
                "share-images",
            ),
        ];
        for (says, pushed, wanted) in cases {
            let Verdict::NotNeeded(why) = decided(&says, pushed) else {
                panic!("{says:?}");
            };
            assert!(why.contains(wanted), "{says:?}: {why}");
        }
    }

    #[test]
    fn what_cannot_be_given_is_told_with_the_reason() {
        let lacks = || Says::Lacks;
        let large = Says::Has(Held {
            refusal: Some("3 GiB".into()),
            ..held("a")
        });
        let differing = vec![has("a"), has("b"), lacks()];
        let pulled = Says::Has(Held {
            is_in_registry: true,
            ..held("a")
        });
        let cases = [
            (vec![large, lacks(), lacks()], None, vec!["3 GiB"]),
            (
                differing.clone(),
                None,
                vec!["node1 sha256:", "node2 sha256:", "each node"],
            ),
            (differing, Some("a"), vec!["which was pushed, counts"]),
            (vec![has("b"), pulled, lacks()], None, vec!["each node"]),
        ];
        for (says, pushed, wanted) in cases {
            let Verdict::NotShared(why) = decided(&says, pushed) else {
                panic!("{says:?}");
            };
            assert!(wanted.iter().all(|part| why.contains(part)), "{why}");
        }
    }
}
