//! `nihilo.serving.v1.ServingService`.

use nihilo_machine::command::{DeleteService, Expect, PutService, RequestKey, Uids};
use nihilo_machine::{Command, Outcome};
use nihilo_raft::RaftNode;
use nihilo_scale::config::validate_annotations;
use nihilo_types::id::{Kind, LogIndex, ObjectKey};
use nihilo_types::meta::keys;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use nihilo_types::{defaults, validate};
use nihilo_wire::serving as pb;
use prost::Message;
use tonic::{Request, Response, Status};

use super::read::{self, Level};
use super::write::{ANONYMOUS, change_to, decode, expectation, propose};
use super::{error, names, watch};

#[derive(Debug, Clone)]
pub struct ServingApi {
    pub raft: RaftNode,
}

impl ServingApi {
    /// `if_unnamed` is what a request without an etag expects of the stored object.
    async fn write(
        &self,
        method: &str,
        request: pb::WriteRequest,
        if_unnamed: Expect,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let once = RequestKey::new(&request.request_id, method, &request.encode_to_vec());
        let mut service: Service = decode(&request.json)?;
        defaults::service(&mut service);
        self.check(&service)?;
        let expect = expectation(&request.etag, &service.metadata, if_unnamed)?;
        if request.validate_only {
            let object = Some(read::shown(&service, &service.metadata));
            return Ok(Response::new(pb::WriteResponse {
                object,
                change: 0,
                index: 0,
            }));
        }
        self.put(service, expect, once).await
    }

    fn check(&self, service: &Service) -> Result<(), Status> {
        validate::service(service)
            .map_err(|invalid| error::invalid("INVALID_FIELD", invalid.to_string()))?;
        let annotations = &service.spec.template.metadata.annotations;
        let settings = self.raft.state().read(|state| {
            let is_founded = state.cluster().is_some();
            is_founded.then(|| state.settings().clone())
        });
        // Its first entry brings the settings that a service is judged by.
        let settings = settings.ok_or_else(|| {
            let text = "this node has not heard of the cluster's first entry yet; try again";
            error::unavailable("NOT_FOUNDED", text)
        })?;
        let problems = validate_annotations(annotations, &settings.scale);
        if problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Err(error::invalid("INVALID_FIELD", lines.join("\n")))
    }

    async fn put(
        &self,
        service: Service,
        expect: Expect,
        once: RequestKey,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let put = PutService {
            service,
            expect,
            uids: draw_uids(),
            user: ANONYMOUS.into(),
        };
        let command = Command::PutService(Box::new(put));
        let reply = propose(&self.raft, command, once).await?;
        match reply.result {
            Ok(Outcome::Service { service, change }) => Ok(Response::new(pb::WriteResponse {
                object: Some(read::shown(service.as_ref(), &service.metadata)),
                change: change_to(change).into(),
                index: reply.index.0,
            })),
            Ok(other) => Err(Status::internal(format!("unexpected answer {other:?}"))),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }
}

fn draw_uids() -> Uids {
    let uid = || uuid::Uuid::now_v7().to_string();
    Uids {
        service: uid(),
        configuration: uid(),
        route: uid(),
        revision: uid(),
    }
}

#[tonic::async_trait]
impl pb::serving_service_server::ServingService for ServingApi {
    async fn get_service(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::Service, "services").await
    }

    async fn list_services(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::Service).await
    }

    async fn create_service(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        self.write("create", request.into_inner(), Expect::Absent)
            .await
    }

    async fn update_service(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        self.write("update", request.into_inner(), Expect::Present)
            .await
    }

    async fn apply_service(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        self.write("apply", request.into_inner(), Expect::Any).await
    }

    async fn delete_service(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let request = request.into_inner();
        let once = RequestKey::new(&request.request_id, "delete", &request.encode_to_vec());
        let key = names::parse(&request.name, "services")?;
        let expect = match names::parse_etag(&request.etag)? {
            Some(version) => Expect::Version(LogIndex(version)),
            None => Expect::Any,
        };
        let command = Command::DeleteService(DeleteService { key, expect });
        let reply = propose(&self.raft, command, once).await?;
        match reply.result {
            Ok(_) => Ok(Response::new(pb::DeleteResponse {
                index: reply.index.0,
            })),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }

    async fn set_traffic(
        &self,
        request: Request<pb::SetTrafficRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        read::ready(&self.raft, &request, Level::Linearizable).await?;
        let request = request.into_inner();
        let once = RequestKey::new(&request.request_id, "set-traffic", &request.encode_to_vec());
        let key: ObjectKey = names::parse(&request.name, "services")?;
        let stored = self.raft.state().read(|state| state.service(&key));
        let stored = stored.ok_or_else(|| error::not_found("service", &key.name))?;
        let traffic: Vec<TrafficTarget> = decode(&request.traffic)?;
        let mut service = stored.as_ref().clone();
        service.spec.traffic = traffic;
        // Shares that were set by hand hold at once.
        service.metadata.annotations.remove(keys::RAMP);
        defaults::service(&mut service);
        self.check(&service)?;
        // Made on this version: a concurrent change is a conflict, not a lost update.
        let expect = expectation(&request.etag, &service.metadata, Expect::Present)?;
        self.put(service, expect, once).await
    }

    async fn get_revision(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::Revision, "revisions").await
    }

    async fn list_revisions(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::Revision).await
    }

    async fn get_configuration(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::Configuration, "configurations").await
    }

    async fn list_configurations(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::Configuration).await
    }

    async fn get_route(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::Route, "routes").await
    }

    async fn list_routes(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::Route).await
    }

    type WatchStream = watch::Events;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<watch::Events>, Status> {
        let events = watch::serve(&self.raft, request.into_inner());
        events.await.map(Response::new)
    }
}
