//! What gateways ask an owner: demand, statistics, endpoints, explanations.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use nihilo_control::Control;
use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::ObjectKey;
use nihilo_wire::internal as pb;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::convert;

#[derive(Debug)]
pub struct OwnerService {
    pub control: Control,
}

type Updates = Pin<Box<dyn Stream<Item = Result<pb::EndpointUpdate, Status>> + Send>>;

#[tonic::async_trait]
impl pb::owner_server::Owner for OwnerService {
    async fn demand(
        &self,
        request: Request<pb::DemandRequest>,
    ) -> Result<Response<pb::DemandResponse>, Status> {
        let demand = convert::demand_from(request.into_inner())?;
        let moved = !self.control.demand_from_peer(&demand);
        Ok(Response::new(pb::DemandResponse { moved }))
    }

    async fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        self.control
            .report_from_peer(convert::report_from(request.into_inner())?);
        Ok(Response::new(pb::ReportResponse {}))
    }

    async fn hand_over(
        &self,
        request: Request<pb::HandOverRequest>,
    ) -> Result<Response<pb::HandOverResponse>, Status> {
        let handovers = convert::handovers_from(request.into_inner())?;
        self.control.hand_over_from_peer(handovers);
        Ok(Response::new(pb::HandOverResponse {}))
    }

    type EndpointsStream = Updates;

    async fn endpoints(
        &self,
        _request: Request<pb::EndpointsRequest>,
    ) -> Result<Response<Updates>, Status> {
        Ok(Response::new(
            follow(&self.control)
                .map(|table| Ok(update(&table)))
                .boxed(),
        ))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let request = request.into_inner();
        let revision = ObjectKey::new(request.namespace, request.revision);
        let report = self.control.explain(&revision);
        Ok(Response::new(pb::ExplainResponse {
            found: report.is_some(),
            report: report
                .map(|text| text.into_string().into())
                .unwrap_or_default(),
        }))
    }
}

/// The owner's tables as a stream; it ends when the reader lagged, and the reader starts over.
pub fn follow(control: &Control) -> impl Stream<Item = EndpointTable> + Send + use<> {
    let (present, updates) = control.follow_endpoints();
    stream::iter(present).chain(
        BroadcastStream::new(updates)
            .take_while(|u| std::future::ready(u.is_ok()))
            .filter_map(|update| std::future::ready(update.ok())),
    )
}

fn update(table: &EndpointTable) -> pb::EndpointUpdate {
    pb::EndpointUpdate {
        table: convert::json_to(table),
    }
}
