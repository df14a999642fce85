//! Requests of other nodes' gateways for instances of this node.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use nihilo_failpoint::{Point, hit};
use nihilo_types::id::InstanceId;

use crate::body::{Begun, ClientBody, Held, RequestBody, ResponseBody, Upstream};
use crate::connection::ClientLimits;
use crate::finish::clean_answer;
use crate::h2_form::from_h2;
use crate::limiter::{Admitted, LocalInstance, Refusal};
use crate::mesh_door::LetIn;
use crate::proxy::Plane;
use crate::rescue::{Cause, Tongue};
use crate::reservations::Reservations;
use crate::send::{
    LOST_STALE, LOST_UNANSWERED, LOST_UNPROCESSED, MESH_ANSWER, MESH_INSTANCE, MESH_LOST,
    MESH_NODE, MESH_RESERVE, forget_place,
};
use crate::tunnel::{self, Tunnel, TunnelLimits};
use crate::upstream::{SendError, send_local};

impl Plane {
    /// Answers a request of another node's gateway, by whose connection `reservations` were made.
    pub async fn serve_mesh(
        self: Arc<Self>,
        request: Request<Incoming>,
        reservations: Reservations,
    ) -> Response<ResponseBody> {
        let field = |name: HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
        let Some(id) = field(MESH_INSTANCE).map(InstanceId::from) else {
            return Cause::BadRequest("no instance is named").answer(Tongue::Http2);
        };
        hit(Point::MeshReceived);
        let admitted = match field(MESH_RESERVE) {
            Some("?") => return self.reserve(&id, &reservations),
            Some(place) => reservations.take(place),
            None => None,
        };
        let what = match *request.method() == Method::CONNECT {
            true => LetIn::Tunnels,
            false => LetIn::Requests,
        };
        let admitted = match admitted.map_or_else(|| self.admit_from_afar(&id, what), Ok) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(refusal),
        };
        self.around.metrics.told("accept");
        self.pass_on(request, admitted).await
    }

    async fn pass_on(
        &self,
        mut request: Request<Incoming>,
        admitted: Admitted,
    ) -> Response<ResponseBody> {
        let wants_tunnel = *request.method() == Method::CONNECT;
        let client = wants_tunnel.then(|| hyper::upgrade::on(&mut request));
        let has_body = !wants_tunnel && !request.body().is_end_stream();
        let (head, incoming) = request.into_parts();
        let body = match has_body {
            true => ClientBody::new(incoming, &ClientLimits::default()).attempt(),
            false => None,
        };
        let mut request = Request::from_parts(head, body.unwrap_or(RequestBody::Empty));
        from_h2(&mut request);
        forget_place(request.headers_mut());
        let instance: Arc<LocalInstance> = admitted.0.clone();
        let (mut response, lease) = match send_local(&self.mesh.net, &instance, request).await {
            Ok(answer) => answer,
            Err(SendError::Unsent(_)) if !has_body => return self.refuse(Refusal::Gone),
            // Some of the body may have been taken out of the stream: who asks has it still, or not.
            Err(SendError::Unsent(_)) => return lost(LOST_UNPROCESSED),
            Err(SendError::Stale) => return lost(LOST_STALE),
            Err(SendError::Unprocessed) => return lost(LOST_UNPROCESSED),
            Err(_) => return lost(LOST_UNANSWERED),
        };
        let held = Held {
            admitted: Some(admitted),
            lease: Some(lease),
            ..Held::default()
        };
        let has_switched = wants_tunnel && tunnel::has_switched(&response);
        let end = hyper::upgrade::on(&mut response);
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_2;
        clean_answer(&mut parts.headers);
        parts.headers.insert(MESH_NODE, self.node_name.clone());
        if has_switched && let Some(client) = client {
            parts.status = StatusCode::OK;
            let tunnel = Tunnel {
                client,
                instance: end,
                // The gateway that has the client keeps the limits. Who leaves first says goodbye:
                // the instance ends with this node.
                limits: TunnelLimits {
                    total: None,
                    idle: None,
                },
                held,
                record: None,
                leaving: self.leaving.clone(),
                alive: self.alive.subscribe(),
            };
            tokio::spawn(tunnel.run());
            return Response::from_parts(parts, ResponseBody::empty());
        }
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return lost(LOST_UNANSWERED);
        }
        if wants_tunnel && parts.status.is_success() {
            // A plain success would read as a tunnel on the way back.
            parts.status = StatusCode::BAD_GATEWAY;
        }
        let limits = None;
        let body = Begun::unseen(body);
        let upstream = Upstream { body, limits, held };
        Response::from_parts(parts, ResponseBody::upstream(upstream))
    }

    fn admit_from_afar(&self, id: &InstanceId, what: LetIn) -> Result<Admitted, Refusal> {
        self.mesh_door.pass(what, || self.local.admit(id))
    }

    fn reserve(&self, id: &InstanceId, reservations: &Reservations) -> Response<ResponseBody> {
        let admitted = match self.admit_from_afar(id, LetIn::Requests) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(refusal),
        };
        hit(Point::PlaceReserved);
        let place = reservations.hold(admitted);
        let Some(place) = place.and_then(|place| HeaderValue::from_str(&place).ok()) else {
            return self.refuse(Refusal::Busy);
        };
        let mut response = Response::new(ResponseBody::empty());
        response.headers_mut().insert(MESH_RESERVE, place);
        response
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        self.around.metrics.told(refusal.as_str());
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let value = HeaderValue::from_static(refusal.as_str());
        response.headers_mut().insert(MESH_ANSWER, value);
        response
    }
}

fn lost(how: &'static str) -> Response<ResponseBody> {
    let mut answer = Cause::UpstreamError.answer(Tongue::Http2);
    let how = HeaderValue::from_static(how);
    answer.headers_mut().insert(MESH_LOST, how);
    answer
}
