//! `nihilo.serving.v1.DomainService`: own domains, and which namespace each is for.

use nihilo_machine::command::{
    DeleteDomainClaim, DeleteDomainMapping, Expect, PutDomainClaim, PutDomainMapping, RequestKey,
};
use nihilo_machine::{Command, Outcome};
use nihilo_raft::RaftNode;
use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_types::id::{Kind, LogIndex};
use nihilo_wire::serving as pb;
use prost::Message;
use tonic::{Request, Response, Status};

use super::read;
use super::write::{ANONYMOUS, change_to, decode, expectation, propose};
use super::{error, names};

const MAPPINGS: &str = "domainmappings";
const CLAIMS: &str = "clusterdomainclaims";

#[derive(Debug, Clone)]
pub struct DomainApi {
    pub raft: RaftNode,
}

impl DomainApi {
    /// `if_unnamed` is what a request without a version expects of the stored object.
    async fn put_mapping(
        &self,
        method: &str,
        request: pb::WriteRequest,
        if_unnamed: Expect,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let once = RequestKey::new(&request.request_id, method, &request.encode_to_vec());
        let mut domain_mapping: DomainMapping = decode(&request.json)?;
        domain_mapping.default_fields();
        let expect = expectation(&request.etag, &domain_mapping.metadata, if_unnamed)?;
        if request.validate_only {
            let checked = self
                .raft
                .state()
                .read(|state| state.check_domain_mapping(&domain_mapping));
            checked.map_err(|rejection| error::rejected(&rejection))?;
            return Ok(Response::new(pb::WriteResponse {
                object: Some(read::shown(&domain_mapping, &domain_mapping.metadata)),
                change: 0,
                index: 0,
            }));
        }
        let put = PutDomainMapping {
            domain_mapping,
            expect,
            uid: uuid::Uuid::now_v7().to_string(),
            user: ANONYMOUS.into(),
        };
        let command = Command::PutDomainMapping(Box::new(put));
        self.write(command, once).await
    }

    async fn write(
        &self,
        command: Command,
        once: RequestKey,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let reply = propose(&self.raft, command, once).await?;
        let (object, change) = match reply.result {
            Ok(Outcome::DomainMapping {
                domain_mapping: mapping,
                change,
            }) => (read::shown(mapping.as_ref(), &mapping.metadata), change),
            Ok(Outcome::DomainClaim { claim, change }) => {
                (read::shown(claim.as_ref(), &claim.metadata), change)
            }
            Ok(other) => return Err(Status::internal(format!("unexpected answer {other:?}"))),
            Err(rejection) => return Err(error::rejected(&rejection)),
        };
        Ok(Response::new(pb::WriteResponse {
            object: Some(object),
            change: change_to(change).into(),
            index: reply.index.0,
        }))
    }

    async fn delete(
        &self,
        command: Command,
        once: RequestKey,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let reply = propose(&self.raft, command, once).await?;
        match reply.result {
            Ok(_) => Ok(Response::new(pb::DeleteResponse {
                index: reply.index.0,
            })),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }
}

fn expected(etag: &str) -> Result<Expect, Status> {
    let version = names::parse_etag(etag)?;
    Ok(version.map_or(Expect::Any, |version| Expect::Version(LogIndex(version))))
}

#[tonic::async_trait]
impl pb::domain_service_server::DomainService for DomainApi {
    async fn get_domain_mapping(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Object>, Status> {
        read::answer_get(&self.raft, request, Kind::DomainMapping, MAPPINGS).await
    }

    async fn list_domain_mappings(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::DomainMapping).await
    }

    async fn create_domain_mapping(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let request = request.into_inner();
        self.put_mapping("create-domain", request, Expect::Absent)
            .await
    }

    async fn apply_domain_mapping(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let request = request.into_inner();
        self.put_mapping("apply-domain", request, Expect::Any).await
    }

    async fn delete_domain_mapping(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let request = request.into_inner();
        let asked = request.encode_to_vec();
        let once = RequestKey::new(&request.request_id, "delete-domain", &asked);
        let key = names::parse(&request.name, MAPPINGS)?;
        let expect = expected(&request.etag)?;
        let command = Command::DeleteDomainMapping(DeleteDomainMapping { key, expect });
        self.delete(command, once).await
    }

    async fn list_domain_claims(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        read::answer_list(&self.raft, request, Kind::ClusterDomainClaim).await
    }

    async fn apply_domain_claim(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::WriteResponse>, Status> {
        let request = request.into_inner();
        if request.validate_only {
            let text = "a claim cannot be checked without being made";
            return Err(error::invalid("MALFORMED", text));
        }
        let asked = request.encode_to_vec();
        let once = RequestKey::new(&request.request_id, "apply-claim", &asked);
        let claim: ClusterDomainClaim = decode(&request.json)?;
        let expect = expectation(&request.etag, &claim.metadata, Expect::Any)?;
        let uid = uuid::Uuid::now_v7().to_string();
        let put = PutDomainClaim { claim, expect, uid };
        self.write(Command::PutDomainClaim(Box::new(put)), once)
            .await
    }

    async fn delete_domain_claim(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let request = request.into_inner();
        let asked = request.encode_to_vec();
        let once = RequestKey::new(&request.request_id, "delete-claim", &asked);
        let host = names::parse_global(&request.name, CLAIMS)?.to_owned();
        let expect = expected(&request.etag)?;
        let command = Command::DeleteDomainClaim(DeleteDomainClaim { host, expect });
        self.delete(command, once).await
    }
}
