//! Services as registers, read and written through every node's admin API; and creates that must
//! not be lost.

use std::sync::Arc;
use std::time::Duration;

use nihilo_client::{Client, Error, Written};
use nihilo_host::Net;
use nihilo_sim::checker::no_lost_ack::{Add, AddAnswer};
use nihilo_sim::history::{Event, Phase};
use nihilo_sim::world::Random;
use nihilo_types::service::Service;
use serde_json::{Value, json};
use tonic::Code;

use crate::book::{Book, now_ns};
use crate::clients::Stage;
use crate::node::{N_NODES, name};
use crate::services::{NAMESPACE, client, service};

pub(crate) const N_KEYS: u64 = 6;
/// Short, so that unknown outcomes occur.
const OP_LIMIT: Duration = Duration::from_secs(1);
const BETWEEN_OPS_MS: u64 = 150;
const BETWEEN_CREATES_MS: u64 = 900;
const LABEL: &str = "value";

/// Who reads and writes the registers: one client stays with each node, one moves on.
pub(crate) fn start(stage: &Stage, net: &Net, random: &mut Random) -> anyhow::Result<()> {
    let mut asked: Vec<Vec<usize>> = (0..N_NODES).map(|place| vec![place]).collect();
    asked.push((0..N_NODES).collect());
    for places in asked {
        let client = client(net, &places)?.with_timeout(OP_LIMIT);
        let node = (places.len() == 1).then(|| name(places[0]));
        stage.spawn(one_client(
            stage.clone(),
            client,
            node,
            Random::new(random.next()),
        ));
    }
    let client = client(net, &[0, 1, 2])?.with_timeout(OP_LIMIT);
    stage.spawn(creates(stage.clone(), client, Random::new(random.next())));
    Ok(())
}

async fn one_client(stage: Stage, client: Client, node: Option<String>, mut random: Random) {
    let mut process = stage.book.process();
    while stage.is_open() {
        let op = Op {
            client: &client,
            book: &stage.book,
            key: format!("r{}", random.below(N_KEYS)),
            node: node.clone(),
        };
        let phase = match random.below(10) {
            0..5 => op.get(process).await.0,
            5..7 => op.put(process).await,
            7 => op.create(process).await,
            8 => op.compare_and_set(process).await,
            _ => op.delete(process).await,
        };
        if phase == Phase::Info {
            process = stage.book.process();
        }
        tokio::time::sleep(Duration::from_millis(random.between(1, BETWEEN_OPS_MS))).await;
    }
}

/// Creates services that nobody changes: each acknowledged one must be there at the end.
async fn creates(stage: Stage, client: Client, mut random: Random) {
    let mut number = 0;
    while stage.is_open() {
        number += 1;
        let item = format!("c{number}");
        let at_ns = now_ns();
        let answer = match client.create_service(&service(&item, None)).await {
            Ok(_) => AddAnswer::Acked,
            Err(error) if is_certain(&error) => AddAnswer::Failed,
            Err(_) => AddAnswer::Unknown,
        };
        stage.book.trace(format_args!("create {item}: {answer:?}"));
        stage.book.adds.lock().push(Add {
            item,
            at_ns,
            answer,
        });
        tokio::time::sleep(Duration::from_millis(random.between(1, BETWEEN_CREATES_MS))).await;
    }
}

/// After the heal every node shows every key.
pub(crate) async fn last_reads(book: &Arc<Book>, net: &Net) -> anyhow::Result<()> {
    for place in 0..N_NODES {
        let client = client(net, &[place])?;
        for number in 0..N_KEYS {
            let op = Op {
                client: &client,
                book,
                key: format!("r{number}"),
                node: Some(name(place)),
            };
            let (phase, _) = op.get(book.process()).await;
            if phase != Phase::Ok {
                let what = format!("{} is not read after the heal", op.key);
                book.found(&name(place), what);
            }
        }
    }
    Ok(())
}

/// Whether nothing was written for sure.
fn is_certain(error: &Error) -> bool {
    error.code == Code::InvalidArgument
}

/// One operation on one key.
struct Op<'a> {
    client: &'a Client,
    book: &'a Arc<Book>,
    key: String,
    node: Option<String>,
}

impl Op<'_> {
    fn invoke(&self, process: u64, op: &str, input: Value) -> Event {
        let key = format!("{NAMESPACE}/{}", self.key);
        let mut event = Event::invoke(0, process, op, Some(&key), input);
        event.node.clone_from(&self.node);
        self.book.event(event)
    }

    fn end(&self, invoked: &Event, phase: Phase, output: Value) -> Phase {
        self.book.event(invoked.complete(0, phase, output));
        phase
    }

    /// A failure: refused for sure, a conflict, or nobody knows.
    fn failed(&self, invoked: &Event, error: &Error, is_conflict: bool) -> Phase {
        if is_conflict {
            return self.end(invoked, Phase::Ok, json!({"conflict": true}));
        }
        let phase = match is_certain(error) || error.is_not_found() {
            true => Phase::Fail,
            false => Phase::Info,
        };
        let why = format!("{:?} {}", error.code, error.reason);
        self.end(invoked, phase, Value::String(why))
    }

    async fn get(&self, process: u64) -> (Phase, Option<(Service, String)>) {
        let invoked = self.invoke(process, "get", Value::Null);
        match self.client.service(NAMESPACE, &self.key).await {
            Ok(stored) => {
                let value = stored.object.metadata.label(LABEL).unwrap_or_default();
                let version = stored.object.metadata.version().0;
                let output = json!({"value": value, "version": version});
                let phase = self.end(&invoked, Phase::Ok, output);
                (phase, Some((stored.object, stored.etag)))
            }
            Err(error) if error.is_not_found() => {
                (self.end(&invoked, Phase::Ok, Value::Null), None)
            }
            Err(error) => (self.failed(&invoked, &error, false), None),
        }
    }

    fn fresh(&self) -> (String, Service) {
        let value = self.book.value();
        let mut service = service(&self.key, None);
        service.metadata.labels.insert(LABEL.into(), value.clone());
        (value, service)
    }

    async fn put(&self, process: u64) -> Phase {
        let (value, service) = self.fresh();
        let invoked = self.invoke(process, "put", json!({"value": value}));
        match self.client.apply_service(&service).await {
            Ok(written) => self.written(&invoked, &written),
            Err(error) => self.failed(&invoked, &error, false),
        }
    }

    async fn create(&self, process: u64) -> Phase {
        let (value, service) = self.fresh();
        let invoked = self.invoke(process, "create", json!({"value": value}));
        match self.client.create_service(&service).await {
            Ok(written) => self.written(&invoked, &written),
            Err(error) => {
                let exists = error.code == Code::AlreadyExists;
                self.failed(&invoked, &error, exists)
            }
        }
    }

    async fn compare_and_set(&self, process: u64) -> Phase {
        let (phase, found) = self.get(process).await;
        let Some((mut service, etag)) = found else {
            return phase;
        };
        let value = self.book.value();
        let expected = service.metadata.version().0;
        service.metadata.labels.insert(LABEL.into(), value.clone());
        let input = json!({"value": value, "expected": expected});
        let invoked = self.invoke(process, "cas", input);
        match self.client.update_service(&service, &etag).await {
            Ok(written) => self.written(&invoked, &written),
            Err(error) => {
                let is_conflict = error.is_conflict() || error.is_not_found();
                self.failed(&invoked, &error, is_conflict)
            }
        }
    }

    async fn delete(&self, process: u64) -> Phase {
        let invoked = self.invoke(process, "delete", Value::Null);
        match self.client.delete_service(NAMESPACE, &self.key).await {
            Ok(index) => self.end(&invoked, Phase::Ok, json!({"version": index})),
            Err(error) => self.failed(&invoked, &error, error.is_not_found()),
        }
    }

    fn written(&self, invoked: &Event, written: &Written) -> Phase {
        self.end(invoked, Phase::Ok, json!({"version": written.index}))
    }
}
