//! `PutBundle`, `DeleteBundle`: which bundles there are; and the pin of a revision to one.
//!
//! A bundle that a revision runs is never forgotten: its revision was made on the promise that every
//! node can fetch it.

use std::collections::BTreeSet;
use std::sync::Arc;

use nihilo_types::bundle::{
    BundleKind, BundleReference, BundleVersion, IMAGE_PREFIX, check_name_of, check_tag,
};
use nihilo_types::id::ObjectKey;
use nihilo_types::image::Image;
use nihilo_types::names::check_dns1123;
use nihilo_types::template::{Container, PullPolicy, RevisionSpec};

use super::{Context, Result};
use crate::bundles::{Bundle, BundleKey, MAX_BUNDLES, MAX_TAGGED_PER_NAME, MAX_TAGS};
use crate::command::{DeleteBundle, PutBundle};
use crate::reply::{Outcome, Rejection};
use crate::rows;
use crate::state::State;

impl State {
    pub(crate) fn put_bundle(&mut self, put: &PutBundle, context: &mut Context) -> Result {
        check(put)?;
        self.forget_what_nobody_keeps(context);
        let key = BundleKey::new(&put.namespace, &put.name, put.digest);
        let known = self.bundles.get(&key);
        if known.is_none() && put.must_be_known {
            let version = BundleVersion::Digest(put.digest);
            return Err(unknown(&put.namespace, &put.name, Some(&version)));
        }
        if known.is_none() && self.bundles.len() >= MAX_BUNDLES {
            return Err(Rejection::LimitReached(format!(
                "at most {MAX_BUNDLES} bundles; delete some with `nihilo bundle delete`"
            )));
        }
        let mut tags = known.map(|known| known.tags.clone()).unwrap_or_default();
        if !put.tag.is_empty() {
            tags.insert(put.tag.clone());
        }
        if tags.len() > MAX_TAGS {
            let text = format!("at most {MAX_TAGS} tags of a bundle");
            return Err(Rejection::LimitReached(text));
        }
        self.take_tag(put, context);
        self.store_bundle(
            Bundle {
                namespace: put.namespace.clone(),
                name: put.name.clone(),
                digest: put.digest,
                tags,
                put_log_ms: context.log_ms,
                put_at_index: context.index.0,
                put_at: context.now.clone(),
                manifest: put.manifest.clone(),
            },
            context,
        );
        self.untag_oldest(&put.namespace, &put.name, context);
        Ok(Outcome::Done)
    }

    pub(crate) fn delete_bundle(&mut self, delete: &DeleteBundle, context: &mut Context) -> Result {
        let DeleteBundle {
            namespace,
            name,
            version,
        } = delete;
        let meant = |bundle: &Bundle| match version {
            None => true,
            Some(BundleVersion::Digest(digest)) => bundle.digest == *digest,
            Some(BundleVersion::Tag(tag)) => bundle.tags.contains(tag),
        };
        let all = self.bundles.of_name(namespace, name);
        let meant: Vec<_> = all.filter(|bundle| meant(bundle)).cloned().collect();
        if meant.is_empty() {
            return Err(unknown(namespace, name, version.as_ref()));
        }
        if let Some(BundleVersion::Tag(tag)) = version {
            for bundle in meant {
                self.untag(&bundle, tag, context);
            }
            return Ok(Outcome::Done);
        }
        let in_use = meant.iter().find(|b| self.bundles.n_pins(&b.key()) > 0);
        if let Some(in_use) = in_use {
            return Err(self.in_use(in_use));
        }
        for bundle in meant {
            self.remove_bundle(&bundle.key(), context);
        }
        self.forget_what_nobody_keeps(context);
        Ok(Outcome::Done)
    }

    /// The spec that a revision gets: with its bundle by digest, so that a tag which moves later
    /// changes nothing that runs.
    pub(super) fn pinned(&self, service: &ObjectKey, spec: &RevisionSpec) -> Result<RevisionSpec> {
        let mut pinned = spec.clone();
        for container in &mut pinned.containers {
            let found = match Image::bundle(&container.image) {
                Some(wanted) => {
                    let found = self.kept_bundle(&service.namespace, &wanted);
                    let version = Some(&wanted.version);
                    found.ok_or_else(|| unknown(&service.namespace, &wanted.name, version))?
                }
                None => match self.pushed_image(&service.namespace, container) {
                    Some(found) => found,
                    None => continue,
                },
            };
            container.image = BundleReference::pinned(&found.name, found.digest).image();
        }
        Ok(pinned)
    }

    fn kept_bundle(&self, namespace: &str, wanted: &BundleReference) -> Option<&Arc<Bundle>> {
        let found = self.bundles.find(namespace, wanted);
        found.filter(|bundle| self.bundles.is_kept(bundle, self.clock.log_ms))
    }

    /// The image that a container names, where it was pushed into the namespace. `Always` means the
    /// registry's.
    fn pushed_image(&self, namespace: &str, container: &Container) -> Option<&Arc<Bundle>> {
        if container.image_pull_policy == PullPolicy::Always {
            return None;
        }
        let wanted = Image::pushed(&container.image)?;
        let found = self.kept_bundle(namespace, &wanted);
        found.filter(|bundle| bundle.manifest.kind == BundleKind::DockerArchive)
    }

    /// Takes the tag from whichever bundle of the name has it.
    fn take_tag(&mut self, put: &PutBundle, context: &mut Context) {
        let all = self.bundles.of_name(&put.namespace, &put.name);
        let had = all.filter(|b| b.digest != put.digest && b.tags.contains(&put.tag));
        for bundle in had.cloned().collect::<Vec<_>>() {
            let mut bundle = bundle.as_ref().clone();
            bundle.tags.remove(&put.tag);
            self.store_bundle(bundle, context);
        }
    }

    /// A bundle that nothing holds any more goes with its last tag: that was asked for.
    fn untag(&mut self, bundle: &Bundle, tag: &str, context: &mut Context) {
        let mut left = bundle.clone();
        left.tags.remove(tag);
        if left.tags.is_empty() && self.bundles.n_pins(&left.key()) == 0 {
            self.remove_bundle(&left.key(), context);
        } else {
            self.store_bundle(left, context);
        }
    }

    /// Of one name only the newest keep their tags.
    fn untag_oldest(&mut self, namespace: &str, name: &str, context: &mut Context) {
        let all = self.bundles.of_name(namespace, name);
        let mut tagged: Vec<_> = all.filter(|b| !b.tags.is_empty()).cloned().collect();
        tagged.sort_by_key(|bundle| std::cmp::Reverse(bundle.put_at_index));
        for bundle in tagged.iter().skip(MAX_TAGGED_PER_NAME) {
            let mut bundle = bundle.as_ref().clone();
            bundle.tags = BTreeSet::new();
            self.store_bundle(bundle, context);
        }
    }

    fn forget_what_nobody_keeps(&mut self, context: &mut Context) {
        let all = self.bundles.all();
        let forgotten = all.filter(|bundle| !self.bundles.is_kept(bundle, context.log_ms));
        let forgotten: Vec<_> = forgotten.map(|bundle| bundle.key()).collect();
        for key in forgotten {
            self.remove_bundle(&key, context);
        }
    }

    fn store_bundle(&mut self, bundle: Bundle, context: &mut Context) {
        let bundle = Arc::new(bundle);
        context.row(rows::put(bundle.key().row(), &bundle));
        self.bundles.put(bundle);
    }

    fn remove_bundle(&mut self, key: &BundleKey, context: &mut Context) {
        if self.bundles.remove(key).is_some() {
            context.row(rows::delete(key.row()));
        }
    }

    fn in_use(&self, bundle: &Bundle) -> Rejection {
        let key = bundle.key();
        let first = self.bundles.first_pin(&key);
        let first = first.and_then(|name| {
            let key = ObjectKey::new(key.namespace.as_str(), name.clone());
            self.revisions.get(&key)
        });
        let service = first.map_or_else(String::new, |revision| revision.root().name.to_string());
        let runs_it = match self.bundles.n_pins(&key) {
            1 => format!("a revision of service `{service}`"),
            n => format!("{n} revisions, of service `{service}` among others"),
        };
        Rejection::BundleInUse(format!(
            "bundle `{}@{}` is run by {runs_it}; delete what runs it first: `nihilo service delete \
             {service} -n {}`",
            key.name, key.digest, key.namespace
        ))
    }
}

fn check(put: &PutBundle) -> Result<()> {
    check_dns1123(&put.namespace)
        .map_err(|why| format!("namespace `{}`: {why}", put.namespace))
        .and_then(|()| check_name_of(put.manifest.kind, &put.name))
        .and_then(|()| match put.tag.as_str() {
            "" => Ok(()),
            tag => check_tag(tag),
        })
        .and_then(|()| put.manifest.check().map_err(|why| why.to_string()))
        .map_err(Rejection::Invalid)?;
    let digest = put.manifest.digest();
    if digest == put.digest {
        return Ok(());
    }
    let text = format!("the manifest's digest is {digest}, not {}", put.digest);
    Err(Rejection::Invalid(text))
}

fn unknown(namespace: &str, name: &str, version: Option<&BundleVersion>) -> Rejection {
    let shown = match version {
        None => name.to_owned(),
        Some(version) => BundleReference {
            name: name.into(),
            version: version.clone(),
        }
        .to_string(),
    };
    let tagged = match version {
        Some(BundleVersion::Tag(tag)) => format!("{name}:{tag}"),
        _ => name.to_owned(),
    };
    if let Some(image) = tagged.strip_prefix(IMAGE_PREFIX) {
        return Rejection::UnknownBundle(format!(
            "namespace `{namespace}` has no image `{image}`; see `nihilo image list -n {namespace}`, or \
             push it from a node that has it: `nihilo image push {image} -n {namespace}`"
        ));
    }
    Rejection::UnknownBundle(format!(
        "namespace `{namespace}` has no bundle `{shown}`; see `nihilo bundle list -n {namespace}`, or \
         push it: `nihilo bundle push PATH --name {tagged} -n {namespace}`"
    ))
}
