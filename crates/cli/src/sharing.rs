//! Images that only some nodes have go into the cluster before a service names them (decision 0107).

use std::collections::BTreeSet;

use nihilo_client::{Client, Saving, SharedImage};
use nihilo_types::defaults;
use nihilo_types::image::Image;
use nihilo_types::service::Service;
use nihilo_types::template::{Container, PullPolicy};

use crate::command::image;
use crate::output;
use crate::wait::Progress;

/// Has the cluster see to it that every node can have the images of `service`, and says what is done about
/// it. The service is to be written whatever comes of it: it runs where its image is.
pub(crate) async fn images_of(
    client: &Client,
    namespace: &str,
    service: &Service,
    progress: &Progress,
) {
    for image in images(service) {
        share(client, namespace, image, progress).await;
    }
}

/// The same for a service that is about to be applied, if that makes a revision.
pub(crate) async fn images_of_applied(client: &Client, service: &Service, progress: &Progress) {
    if images(service).is_empty() {
        return;
    }
    let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
    let stored = client.service(namespace, name).await;
    if stored.map_or(true, |stored| makes_revision(&stored.object, service)) {
        images_of(client, namespace, service, progress).await;
    }
}

/// Of one that is stored, with what is filled in as it is written.
fn makes_revision(stored: &Service, wanted: &Service) -> bool {
    let mut wanted = wanted.clone();
    defaults::service(&mut wanted);
    stored.spec.template != wanted.spec.template
}

/// The images of `service` that nodes may have on their own.
pub(crate) fn images(service: &Service) -> BTreeSet<&str> {
    let containers = service.spec.template.spec.containers.iter();
    containers.filter_map(nodes_own).collect()
}

/// `Always` means the registry's.
fn nodes_own(container: &Container) -> Option<&str> {
    let image = container.image.as_str();
    let is_registrys = container.image_pull_policy == PullPolicy::Always;
    (!is_registrys && Image::pushed(image).is_some()).then_some(image)
}

async fn share(client: &Client, namespace: &str, name: &str, progress: &Progress) {
    let mut heard = image::Heard::new();
    let hear = |saving: &Saving| {
        if heard.is_first() {
            let node = &saving.node;
            progress.say(&format!(
                "Image '{name}' is not on every node: {node} gives it to the cluster."
            ));
        }
        heard.hear(saving);
    };
    let shared = client.share_image(namespace, name, hear).await;
    let how = heard.end();
    match shared {
        Ok(SharedImage::Pushed(pushed)) => {
            let nodes = pushed.nodes.join(", ");
            progress.say(&format!("Image '{name}' ({how}) is kept by {nodes}."));
        }
        Ok(SharedImage::NotNeeded(_)) => {}
        Ok(SharedImage::NotShared(why)) => warn(name, &why),
        // The server is of a build that shares nothing.
        Err(error) if error.is_unknown_call() => {}
        Err(error) => warn(name, &error.message),
    }
}

fn warn(image: &str, why: &str) {
    output::note(&format!(
        "warning: image '{image}' is not given to other nodes, and runs only where it is: {why}"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_again_makes_no_revision() {
        let mut wanted = Service::default();
        let container = Container {
            image: "app:v1".into(),
            ..Container::default()
        };
        wanted.spec.template.spec.containers.push(container);
        let mut stored = wanted.clone();
        defaults::service(&mut stored);
        assert_ne!(stored, wanted);
        assert!(!makes_revision(&stored, &wanted));
        wanted.spec.template.spec.containers[0].image = "app:v2".into();
        assert!(makes_revision(&stored, &wanted));
    }

    #[test]
    fn only_what_a_node_may_have_of_its_own_is_asked_for() {
        let cases = [
            ("team/app:v1", PullPolicy::IfNotPresent, true),
            ("team/app", PullPolicy::Never, true),
            ("team/app:v1", PullPolicy::Always, false),
            ("demo/hello", PullPolicy::IfNotPresent, false),
            ("bundle/image/app:v1", PullPolicy::IfNotPresent, false),
            ("file:///app", PullPolicy::IfNotPresent, false),
        ];
        for (image, policy, wanted) in cases {
            let container = Container {
                image: image.into(),
                image_pull_policy: policy,
                ..Container::default()
            };
            assert_eq!(
                nodes_own(&container).is_some(),
                wanted,
                "{image} {policy:?}"
            );
        }
        let digest = format!("app@sha256:{}", "a".repeat(64));
        let container = Container {
            image: digest,
            ..Container::default()
        };
        assert_eq!(nodes_own(&container), None);
    }
}
