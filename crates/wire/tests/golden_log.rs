//! Logs that earlier releases wrote, replayed by this one: the state must come to the digest that it
//! came to then. One file for each cluster version; a file is never changed, only added.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nihilo_machine::State;
use nihilo_machine::command::{CLUSTER_VERSION, Envelope};
use nihilo_machine::digest::digest_of_rows;
use nihilo_types::id::LogIndex;
use nihilo_wire::codec;

/// Entries as they stand in log records, hexadecimal, one a line; then `digest` and what it came to.
const LOGS: [(u32, &str); 2] = [
    (1, include_str!("golden/log-v1.txt")),
    (2, include_str!("golden/log-v2.txt")),
];

fn bytes_of(line: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    let pairs = line.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// How a batch is applied that begins after this entry.
type Apply = fn(&mut State, LogIndex, &[Envelope]);

fn apply(state: &mut State, after: LogIndex, batch: &[Envelope]) {
    for (index, envelope) in (after.0 + 1..).zip(batch) {
        state.apply(LogIndex(index), envelope);
    }
}

/// Replays a log in batches of `n_batch` entries, each through rows as a restart would between them.
fn replay(log: &str, n_batch: usize) -> (State, u64) {
    replay_by(apply, log, n_batch)
}

fn replay_by(apply: Apply, log: &str, n_batch: usize) -> (State, u64) {
    let mut state = State::default();
    let mut index = 0;
    let entries: Vec<_> = log
        .lines()
        .filter(|line| !line.starts_with("digest"))
        .collect();
    for batch in entries.chunks(n_batch) {
        let batch = batch
            .iter()
            .map(|line| codec::decode_entry(&bytes_of(line)).unwrap());
        let batch: Vec<_> = batch.collect();
        apply(&mut state, LogIndex(index), &batch);
        index += batch.len() as u64;
        let rows = state.rows().into_iter();
        let rows = rows.filter_map(|row| Some((row.key, row.value?)));
        state = State::from_rows(rows).unwrap();
    }
    (state, index)
}

fn every_log_comes_to_what_it_came_to_then(apply: Apply) {
    for (version, log) in LOGS {
        let wanted = log.lines().find_map(|line| line.strip_prefix("digest "));
        let wanted = wanted.unwrap_or_else(|| panic!("log of version {version} has no digest"));
        let (state, n_entries) = replay_by(apply, log, usize::MAX);
        assert!(n_entries >= 20, "only {n_entries} entries");
        assert_eq!(
            format!("{:016x}", state.digest()),
            wanted,
            "version {version}"
        );
        assert_eq!(state.cluster_version(), version);
        // However it is cut: a batch has no meaning of its own.
        for n_batch in [1, 2, 7] {
            let (cut, _) = replay_by(apply, log, n_batch);
            assert_eq!(
                cut.digest(),
                state.digest(),
                "version {version}, batches of {n_batch}"
            );
        }
    }
}

#[test]
fn every_release_s_log_comes_to_what_it_came_to_then() {
    every_log_comes_to_what_it_came_to_then(apply);
}

/// The time of each entry is that of its batch's first, as it is where a batch asks a clock.
fn apply_by_the_batchs_time(state: &mut State, after: LogIndex, batch: &[Envelope]) {
    let first = &batch[0];
    let now = batch.iter().map(|envelope| Envelope {
        log_ms: first.log_ms,
        wall_ms: first.wall_ms,
        ..envelope.clone()
    });
    apply(state, after, &now.collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "version 1")]
fn planted_a_time_that_is_not_the_entrys_is_found() {
    every_log_comes_to_what_it_came_to_then(apply_by_the_batchs_time);
}

#[test]
fn a_changed_entry_changes_the_digest() {
    let (_, log) = LOGS[1];
    let (whole, _) = replay(log, usize::MAX);
    let entries: Vec<_> = log
        .lines()
        .filter(|line| !line.starts_with("digest"))
        .collect();
    let (last, rest) = entries.split_last().unwrap();
    let shorter = rest.join("\n");
    assert_ne!(
        replay(&shorter, usize::MAX).0.digest(),
        whole.digest(),
        "{last}"
    );
    let rows = |state: &State| {
        let rows = state.rows().into_iter();
        rows.filter_map(|row| Some((row.key, row.value?)))
            .collect::<Vec<_>>()
    };
    let mut changed = rows(&whole);
    changed[0].1.push(b' ');
    assert_ne!(digest_of_rows(changed), digest_of_rows(rows(&whole)));
}

/// `marked` = the version that an entry of a newer one is marked with.
fn an_entry_of_a_newer_version_is_refused(marked: fn(u32) -> u32) {
    let (_, log) = LOGS[1];
    let line = log.lines().next().unwrap();
    let mut envelope = codec::decode_entry(&bytes_of(line)).unwrap();
    envelope.cluster_version = marked(envelope.cluster_version + 1);
    let newer = codec::encode_entry(&envelope);
    let refused = codec::decode_entry(&newer).unwrap_err().to_string();
    assert!(refused.contains("cluster version 3"), "{refused}");
}

#[test]
fn an_entry_of_a_newer_cluster_version_is_not_applied_by_older_rules() {
    an_entry_of_a_newer_version_is_refused(|version| version);
}

#[test]
#[should_panic(expected = "on an `Ok` value")]
fn planted_a_newer_entry_that_is_read_by_older_rules_is_found() {
    an_entry_of_a_newer_version_is_refused(|version| version.min(CLUSTER_VERSION));
}

/// What a release's log holds: something of everything.
mod sample {
    use std::collections::BTreeMap;

    use nihilo_machine::command::{
        AddNode, CloseSession, CreateToken, DeleteBundle, DeleteDomainClaim, DeleteDomainMapping,
        DeleteSecret, DeleteService, Expect, Founder, InitCluster, NodeDown, OpenSession,
        PromoteNode, PutBundle, PutConfigMap, PutDomainClaim, PutDomainMapping, PutSecret,
        PutService, Reassign, RecordDomainMapping, RecordMembers, RemoveNode, RequestKey,
        RevokeToken, Roles, SetDuty, Uids,
    };
    use nihilo_machine::member::Duty;
    use nihilo_machine::ownership::next_moves;
    use nihilo_machine::{Command, Envelope, Fence, State};
    use nihilo_types::bundle::{
        Blob, BundleKind, BundleVersion, Digest, Manifest, Platform, SCHEMA,
    };
    use nihilo_types::condition::{Assertion, types};
    use nihilo_types::config_map::ConfigMap;
    use nihilo_types::domain::ClusterDomainClaim;
    use nihilo_types::id::{LogIndex, NodeId, ObjectKey, SessionId};
    use nihilo_types::sealing::{KEY_BYTES, NONCE_BYTES, SealingKey};
    use nihilo_types::secret::Secret;
    use nihilo_types::shard::shard_of;

    pub(crate) fn log(version: u32) -> Vec<Envelope> {
        let mut made = Made {
            version,
            ..Made::default()
        };
        made.write(Command::InitCluster(InitCluster {
            cluster_id: "golden".into(),
            name: "golden".into(),
            domain: "localhost".into(),
            external_port: 8080,
            autoscaler: BTreeMap::new(),
        }));
        (1..=3).for_each(|node| made.open(node, 1));
        made.reassign();
        for n in 0..6 {
            made.put(&format!("s-{n}"), "demo/hello");
            made.put(&format!("s-{}", n / 2), "demo/echo");
        }
        made.write(Command::DeleteService(DeleteService {
            key: ObjectKey::new("default", "s-1"),
            expect: Expect::Any,
        }));
        made.open(2, 2);
        let moves = Vec::new();
        made.write(Command::CloseSession(CloseSession {
            session: SessionId(3),
            moves: moves.clone(),
            returns: false,
        }));
        made.write(Command::NodeDown(NodeDown {
            session: SessionId(4),
            cause: nihilo_machine::command::DownCause::Silent,
            moves,
        }));
        made.reassign();
        if version >= 2 {
            made.members();
            made.domains();
            made.bundles();
            made.secrets();
            made.images();
        }
        made.log
    }

    #[derive(Default)]
    struct Made {
        version: u32,
        state: State,
        log: Vec<Envelope>,
    }

    impl Made {
        fn write(&mut self, command: Command) {
            let index = self.log.len() as u64 + 1;
            let envelope = Envelope {
                cluster_version: self.version,
                log_ms: index * 1_000,
                wall_ms: 1_700_000_000_000 + index * 1_000,
                // Every third one is a repetition of the one before by its id.
                request: RequestKey::new(
                    &format!("r{}", index - u64::from(index.is_multiple_of(3))),
                    "m",
                    b"",
                ),
                command,
            };
            self.state.apply(LogIndex(index), &envelope);
            self.log.push(envelope);
        }

        fn open(&mut self, node: u64, boot: u64) {
            self.write(Command::OpenSession(OpenSession {
                node: NodeId(node),
                name: format!("node{node}"),
                boot_id: format!("boot-{boot}"),
                store_id: String::new(),
                roles: Roles::ALL,
                peer_address: format!("host{node}:7071"),
                gateway_address: format!("host{node}:8080"),
                admin_address: format!("host{node}:7070"),
                pid: 1,
                capacity: 10,
                t_self_ms: 400,
                kills_instances_on_exit: true,
            }));
        }

        fn reassign(&mut self) {
            let moves = next_moves(&self.state);
            self.write(Command::Reassign(Reassign { moves }));
        }

        fn put(&mut self, name: &str, image: &str) {
            let service = serde_json::json!({
                "apiVersion": "serving.knative.dev/v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
            });
            let uid = |what: &str| format!("{what}-{}", self.log.len());
            let put = PutService {
                service: serde_json::from_value(service).unwrap(),
                expect: Expect::Any,
                uids: Uids {
                    service: uid("s"),
                    configuration: uid("c"),
                    route: uid("r"),
                    revision: uid("v"),
                },
                user: "golden".into(),
            };
            self.write(Command::PutService(Box::new(put)));
        }

        /// A host that two namespaces want, and its way from the first to the second.
        fn domains(&mut self) {
            let autocreate = ("autocreate-cluster-domain-claims".into(), "true".into());
            let config_map = ConfigMap::system("config-network", BTreeMap::from([autocreate]));
            self.write(Command::PutConfigMap(Box::new(PutConfigMap {
                config_map,
                expect: Expect::Any,
                uid: String::new(),
            })));
            for namespace in ["default", "other", "third"] {
                let mapping = serde_json::json!({
                    "metadata": {"name": "www.example.org", "namespace": namespace},
                    "spec": {"ref": {
                        "apiVersion": "serving.knative.dev/v1",
                        "kind": "Service",
                        "name": "s-0",
                    }},
                });
                // Written twice: one of three entries is a repetition, and none of these may be.
                for _ in 0..2 {
                    let put = PutDomainMapping {
                        domain_mapping: serde_json::from_value(mapping.clone()).unwrap(),
                        expect: Expect::Any,
                        uid: format!("d-{}", self.log.len()),
                        user: "golden".into(),
                    };
                    self.write(Command::PutDomainMapping(Box::new(put)));
                }
            }
            let key = |namespace| ObjectKey::new(namespace, "www.example.org");
            let mapping = self.state.domain_mapping(&key("default")).unwrap();
            let shard = shard_of(&mapping.route());
            let record = RecordDomainMapping {
                fence: Fence {
                    shard,
                    epoch: self.state.owner(shard).epoch,
                },
                key: key("default"),
                version: mapping.metadata.version(),
                assertions: vec![Assertion::truth(types::INGRESS_READY)],
            };
            for _ in 0..2 {
                self.write(Command::RecordDomainMapping(record.clone()));
            }
            for namespace in ["default", "default", "other", "other"] {
                self.write(Command::DeleteDomainMapping(DeleteDomainMapping {
                    key: key(namespace),
                    expect: Expect::Any,
                }));
            }
            for host in ["a.example.org", "b.example.org", "c.example.org"] {
                self.write(Command::PutDomainClaim(Box::new(PutDomainClaim {
                    claim: ClusterDomainClaim::new(host, "default"),
                    expect: Expect::Any,
                    uid: format!("k-{}", self.log.len()),
                })));
                self.write(Command::DeleteDomainClaim(DeleteDomainClaim {
                    host: "a.example.org".into(),
                    expect: Expect::Any,
                }));
            }
        }

        /// A bundle under two tags, a service that pins it, and one that goes.
        fn bundles(&mut self) {
            let manifest = |n: u8| Manifest {
                schema: SCHEMA,
                kind: BundleKind::Binary,
                platform: Platform::linux("amd64"),
                entrypoint: Vec::new(),
                blob: Blob {
                    digest: Digest::of(&[n]),
                    size: 1,
                    chunks: vec![Digest::of(&[n])],
                },
                image_id: None,
            };
            for (n, tag) in [
                (1, "v1"),
                (1, "v1"),
                (2, "v2"),
                (2, "v2"),
                (1, "v2"),
                (1, "v2"),
            ] {
                self.write(Command::PutBundle(Box::new(PutBundle {
                    namespace: "default".into(),
                    name: "app".into(),
                    tag: tag.into(),
                    digest: manifest(n).digest(),
                    manifest: manifest(n),
                    must_be_known: false,
                })));
            }
            (0..2).for_each(|_| self.put("s-0", "bundle/app:v1"));
            for n in [1, 1, 2, 2] {
                let version = Some(BundleVersion::Digest(manifest(n).digest()));
                self.write(Command::DeleteBundle(DeleteBundle {
                    namespace: "default".into(),
                    name: "app".into(),
                    version,
                }));
            }
        }

        /// An image under a tag, and a service that comes to it by the image's own name.
        fn images(&mut self) {
            let manifest = Manifest {
                schema: SCHEMA,
                kind: BundleKind::DockerArchive,
                platform: Platform::linux("amd64"),
                entrypoint: Vec::new(),
                blob: Blob {
                    digest: Digest::of(b"archive"),
                    size: 7,
                    chunks: vec![Digest::of(b"archive")],
                },
                image_id: Some(Digest::of(b"image")),
            };
            // Written twice: one of three entries is a repetition, and none of these may be.
            for _ in 0..2 {
                self.write(Command::PutBundle(Box::new(PutBundle {
                    namespace: "default".into(),
                    name: "image/team/app".into(),
                    tag: "v1".into(),
                    digest: manifest.digest(),
                    manifest: manifest.clone(),
                    must_be_known: false,
                })));
            }
            (0..2).for_each(|_| self.put("s-0", "team/app:v1"));
        }

        /// Sealed, changed, and one of them deleted.
        fn secrets(&mut self) {
            let key = SealingKey::new([7; KEY_BYTES]);
            for n in 0..4u8 {
                let json = format!(
                    r#"{{"metadata":{{"name":"s-{}","namespace":"default"}},
                    "stringData":{{"password":"golden-{n}"}}}}"#,
                    n / 2
                );
                let mut secret: Secret = serde_json::from_str(&json).unwrap();
                secret.default_fields();
                // Written twice: one of three entries is a repetition, and none of these may be.
                for _ in 0..2 {
                    let put = PutSecret {
                        secret: secret.seal(&key, None, || [n; NONCE_BYTES]),
                        expect: Expect::Any,
                        uid: format!("x-{}", self.log.len()),
                    };
                    self.write(Command::PutSecret(Box::new(put)));
                }
            }
            for _ in 0..2 {
                self.write(Command::DeleteSecret(DeleteSecret {
                    key: ObjectKey::new("default", "s-1"),
                    expect: Expect::Any,
                }));
            }
        }

        fn members(&mut self) {
            let founder = |id: u64| Founder {
                id: NodeId(id),
                name: format!("node{id}"),
                peer_address: format!("host{id}:7071"),
                admin_address: format!("host{id}:7070"),
            };
            let members = (1..=3).map(founder).collect();
            self.write(Command::RecordMembers(RecordMembers { members }));
            for id in ["a1", "b2", "c3"] {
                self.write(Command::CreateToken(CreateToken {
                    id: id.into(),
                    secret_hash: format!("hash-of-{id}"),
                    voter: id == "b2",
                    ttl_ms: 3_600_000,
                }));
            }
            self.write(Command::RevokeToken(RevokeToken { id: "c3".into() }));
            for id in ["a1", "b2", "c3"] {
                self.write(Command::AddNode(AddNode {
                    token: id.into(),
                    secret_hash: format!("hash-of-{id}"),
                    name: format!("new-{id}"),
                    peer_address: format!("new-{id}:7071"),
                    admin_address: format!("new-{id}:7070"),
                }));
            }
            let node = self.state.members().last().unwrap().id;
            self.write(Command::PromoteNode(PromoteNode { node }));
            // One of three entries is a repetition by its id: each duty twice.
            for duty in [Duty::Cordoned, Duty::Full, Duty::Drained] {
                for _ in 0..2 {
                    self.write(Command::SetDuty(SetDuty { node, duty }));
                }
            }
            let node = NodeId(2);
            self.write(Command::RemoveNode(RemoveNode { node }));
        }
    }
}

/// The log of the newest version as this build writes it. A difference is a change of what that
/// version means: right while no release has it, and then `log-vN.txt` is replaced by what stands in
/// the tests' scratch directory; later it takes a new version, and the old file stays.
#[test]
fn this_release_writes_this_log() {
    let (version, stored) = LOGS[LOGS.len() - 1];
    assert_eq!(version, CLUSTER_VERSION, "a log for each version");
    let text = written(version);
    let file =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("log-v{version}.txt"));
    std::fs::write(&file, &text).unwrap();
    for (now, then) in text.lines().zip(stored.lines()) {
        assert_eq!(now, then, "all of it is in {}", file.display());
    }
    assert_eq!(text.lines().count(), stored.lines().count());
}

/// A log and its digest, as they stand in a file.
fn written(version: u32) -> String {
    let log = sample::log(version);
    let mut text: String = log
        .iter()
        .map(|envelope| {
            let bytes = codec::encode_entry(envelope);
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            digits + "\n"
        })
        .collect();
    let (state, _) = replay(&text, usize::MAX);
    text.push_str(&format!("digest {:016x}\n", state.digest()));
    text
}
