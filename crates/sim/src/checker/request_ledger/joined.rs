//! One request over all ledgers.

use std::collections::BTreeMap;

use crate::checker::request_ledger::Input;
use crate::history::ledger::{
    ClientRecord, Ended, GatewayRecord, InstanceRecord, InstanceStep, Sent,
};
use crate::history::shown::seconds;

/// Everything recorded under one request id.
#[derive(Debug)]
pub(super) struct Joined<'a> {
    pub(super) sent: &'a Sent,
    pub(super) ended: Option<&'a Ended>,
    pub(super) gateway: Vec<&'a GatewayRecord>,
    pub(super) started: Vec<&'a InstanceRecord>,
    finished: Vec<&'a InstanceRecord>,
}

impl Joined<'_> {
    /// Every record in order of time, for a reader.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![(
            self.sent.at_ns,
            format!("client sent it to node `{}`", self.sent.node),
        )];
        for record in &self.gateway {
            let text = format!("gateway of node `{}`: {:?}", record.node, record.step);
            lines.push((record.at_ns, text));
        }
        for record in self.started.iter().chain(&self.finished) {
            let text = format!("instance `{}`: {:?}", record.instance, record.step);
            lines.push((record.at_ns, text));
        }
        if let Some(ended) = self.ended {
            lines.push((ended.at_ns, format!("client: {:?}", ended.outcome)));
        }
        lines.sort_by_key(|&(at_ns, _)| at_ns);
        let shown = |(at_ns, text)| format!("{} {text}", seconds(at_ns));
        lines.into_iter().map(shown).collect()
    }
}

/// Joins the ledgers on the request id.
///
/// # Errors
/// Books that a client cannot have kept: one id sent or ended twice, an end, a receipt or an
/// execution of what was never sent (ids are written before the request leaves).
pub(super) fn join(input: &Input) -> Result<BTreeMap<&str, Joined<'_>>, String> {
    let mut requests: BTreeMap<&str, Joined<'_>> = BTreeMap::new();
    for record in &input.client {
        let ClientRecord::Sent(sent) = record else {
            continue;
        };
        let joined = Joined {
            sent,
            ended: None,
            gateway: Vec::new(),
            started: Vec::new(),
            finished: Vec::new(),
        };
        if requests.insert(&sent.request, joined).is_some() {
            return Err(format!("client ledger: `{}` was sent twice", sent.request));
        }
    }
    for record in &input.client {
        if let ClientRecord::Ended(ended) = record {
            end(find(&mut requests, &ended.request, "client")?, ended)?;
        }
    }
    for record in input.gateway.iter().flatten() {
        find(&mut requests, &record.request, "gateway")?
            .gateway
            .push(record);
    }
    for record in input.instance.iter().flatten() {
        let joined = find(&mut requests, &record.request, "instance")?;
        match record.step {
            InstanceStep::Started => joined.started.push(record),
            InstanceStep::Finished => joined.finished.push(record),
        }
    }
    Ok(requests)
}

fn find<'a, 'b>(
    requests: &'b mut BTreeMap<&str, Joined<'a>>,
    request: &str,
    ledger: &str,
) -> Result<&'b mut Joined<'a>, String> {
    requests
        .get_mut(request)
        .ok_or_else(|| format!("{ledger} ledger: `{request}` was never sent"))
}

fn end<'a>(joined: &mut Joined<'a>, ended: &'a Ended) -> Result<(), String> {
    if joined.ended.is_some() {
        return Err(format!("client ledger: `{}` ended twice", ended.request));
    }
    if ended.at_ns < joined.sent.at_ns {
        return Err(format!(
            "client ledger: `{}` ended before it was sent",
            ended.request
        ));
    }
    joined.ended = Some(ended);
    Ok(())
}
