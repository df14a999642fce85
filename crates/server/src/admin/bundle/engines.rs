//! What the engines of all nodes say of an image.

use std::time::Duration;

use futures_util::future::join_all;
use nihilo_runtime::docker::{Found, NoImage};
use nihilo_types::bundle::Digest;
use nihilo_types::image::Reference;
use nihilo_wire::internal::{FindImageRequest, FindImageResponse};

use super::BundleApi;
use crate::bundle_gc::Collector;

/// A node says by then what it has, or is left out.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Of its engine a node waits so long: less, so that whoever asks it hears that it waits for nothing.
const ENGINE_LIMIT: Duration = Duration::from_secs(4);

/// A node that lives, and what it answered.
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) admin_address: String,
    pub(super) peer_address: String,
    /// An error is why it did not.
    pub(super) answer: Result<FindImageResponse, String>,
}

impl Asked {
    /// Why it has none to give; `None` = it has it.
    pub(super) fn refusal(&self) -> Option<String> {
        match &self.answer {
            Ok(answer) => refusal_in(answer),
            Err(why) => Some(format!("it does not answer: {why}")),
        }
    }

    pub(super) fn says(&self) -> Says {
        self.answer.as_ref().map_or(Says::Nothing, Says::of)
    }
}

/// What an engine's answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Says {
    Has(Held),
    /// It has none, or its engine cannot say now, which may come to need it.
    Lacks,
    /// There is none that could need it.
    NoEngine,
    /// No answer, or one of an older build, which does not name what it has.
    Nothing,
}

/// An image that an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: Digest,
    pub(super) is_in_registry: bool,
    /// Its node gives it away unasked.
    pub(super) is_shared: bool,
    /// Why it cannot, though.
    pub(super) refusal: Option<String>,
}

/// Of one that has nothing to give.
fn refusal_in(answer: &FindImageResponse) -> Option<String> {
    Some(answer.refusal.clone()).filter(|refusal| !refusal.is_empty())
}

impl Says {
    fn of(answer: &FindImageResponse) -> Self {
        let refusal = refusal_in(answer);
        match (answer.image_id.parse(), &refusal) {
            (Ok(id), _) => Self::Has(Held {
                id,
                is_in_registry: answer.is_in_registry,
                is_shared: answer.is_shared,
                refusal,
            }),
            (Err(_), _) if answer.has_no_engine => Self::NoEngine,
            (Err(_), Some(_)) => Self::Lacks,
            (Err(_), None) => Self::Nothing,
        }
    }
}

impl Collector {
    /// What this node's engine says of an image, in time.
    pub(crate) async fn say_of_image(&self, image: &Reference) -> FindImageResponse {
        let look = async { self.images()?.find(image).await };
        let found = tokio::time::timeout(ENGINE_LIMIT, look).await;
        let found = found.unwrap_or_else(|_| {
            let text = format!("the engine says nothing for {ENGINE_LIMIT:?}");
            Err(NoImage::Unknown(text))
        });
        answer(found, self.shares_images())
    }
}

fn answer(found: Result<Found, NoImage>, is_shared: bool) -> FindImageResponse {
    let refusal = |why: NoImage| why.to_string();
    match found {
        Ok(found) => FindImageResponse {
            refusal: found.check_size().err().map(refusal).unwrap_or_default(),
            image_id: found.id.to_string(),
            is_in_registry: found.is_in_registry,
            is_shared,
            has_no_engine: false,
        },
        Err(why) => FindImageResponse {
            has_no_engine: matches!(why, NoImage::NoEngine(_)),
            refusal: refusal(why),
            ..FindImageResponse::default()
        },
    }
}

impl BundleApi {
    /// What every node that lives says, this one first.
    pub(super) async fn ask_all(&self, image: &Reference) -> Vec<Asked> {
        let own = self.collector.say_of_image(image);
        let (own, others) = tokio::join!(own, self.ask_others(image));
        let own = Asked {
            name: self.node_name.clone(),
            // Nobody has to be sent here.
            admin_address: String::new(),
            peer_address: self.peer_address.clone(),
            answer: Ok(own),
        };
        std::iter::once(own).chain(others).collect()
    }

    /// Asks every other node that lives; in the order of their names.
    pub(super) async fn ask_others(&self, image: &Reference) -> Vec<Asked> {
        let others: Vec<_> = self.raft().state().read(|state| {
            let others = state.sessions().map(|session| &session.opened);
            let others = others.filter(|opened| opened.node != self.source.node);
            let other = others.map(|opened| {
                let address = opened.peer_address.clone();
                (opened.name.clone(), opened.admin_address.clone(), address)
            });
            other.collect()
        });
        let asked = others
            .into_iter()
            .map(|(name, admin_address, peer_address)| async move {
                Asked {
                    name,
                    admin_address,
                    answer: self.ask(&peer_address, image).await,
                    peer_address,
                }
            });
        let mut asked = join_all(asked).await;
        asked.sort_by(|a, b| a.name.cmp(&b.name));
        asked
    }

    async fn ask(&self, address: &str, image: &Reference) -> Result<FindImageResponse, String> {
        let mut client = self.source.client(address)?;
        let image = image.to_string();
        let answer = client.find_image(FindImageRequest { image });
        let answer = tokio::time::timeout(ASK_LIMIT, answer).await;
        let answer = answer.map_err(|_| format!("not in {ASK_LIMIT:?}"))?;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(answer.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_does_not_answer_may_need_the_image() {
        let cases = [
            (NoImage::NoEngine("simulated".into()), Says::NoEngine),
            (
                NoImage::Unknown("it is being restarted".into()),
                Says::Lacks,
            ),
            (NoImage::Missing, Says::Lacks),
        ];
        for (why, wanted) in cases {
            let said = Says::of(&answer(Err(why.clone()), true));
            assert_eq!(said, wanted, "{why}");
        }
    }
}
