//! Services, revisions, configurations, routes, instances and logs.

use nihilo_types::configuration::Configuration;
use nihilo_types::revision::Revision;
use nihilo_types::route::{Route, TrafficTarget};
use nihilo_types::service::Service;
use nihilo_wire::serving as pb;
use pb::observe_service_client::ObserveServiceClient;
use pb::serving_service_client::ServingServiceClient;
use serde::de::DeserializeOwned;
use tonic::{Request, Streaming};

use crate::call::{Client, request_id, unary};
use crate::error::Error;
use crate::watch::Watch;

/// Times a change of traffic is made again because the Service's status moved meanwhile.
const MAX_CONFLICTS: u32 = 5;

/// One object as it is stored.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    pub object: T,
    /// Its version in quotes, for a conditional write.
    pub etag: String,
}

/// Objects of one kind.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// A watch from here misses nothing.
    pub resource_version: u64,
}

/// What a write did.
#[derive(Debug, Clone)]
pub struct Written {
    pub service: Service,
    pub change: pb::write_response::Change,
    /// Index of the log entry.
    pub index: u64,
}

/// Output of instances; ends by itself unless it follows.
#[derive(Debug)]
pub struct LogStream {
    stream: Streaming<pb::LogLine>,
    server: String,
}

macro_rules! read_methods {
    ($get:ident, $list:ident, $get_rpc:ident, $list_rpc:ident, $type:ty, $plural:literal) => {
        /// # Errors
        /// Not found, or no server answered.
        pub async fn $get(&self, namespace: &str, name: &str) -> Result<Stored<$type>, Error> {
            let name = format!("namespaces/{namespace}/{}/{name}", $plural);
            let request = pb::GetRequest { name };
            stored(unary!(self, ServingServiceClient, $get_rpc, request)?)
        }

        /// Lists one namespace or all; a `service` keeps only what belongs to it.
        ///
        /// # Errors
        /// No server answered.
        pub async fn $list(
            &self,
            namespace: Option<&str>,
            service: &str,
        ) -> Result<Listed<$type>, Error> {
            let request = pb::ListRequest {
                parent: parent(namespace),
                service: service.into(),
            };
            listed(unary!(self, ServingServiceClient, $list_rpc, request)?)
        }
    };
}

impl Client {
    read_methods!(
        service,
        services,
        get_service,
        list_services,
        Service,
        "services"
    );
    read_methods!(
        revision,
        revisions,
        get_revision,
        list_revisions,
        Revision,
        "revisions"
    );
    read_methods!(route, routes, get_route, list_routes, Route, "routes");
    read_methods!(
        configuration,
        configurations,
        get_configuration,
        list_configurations,
        Configuration,
        "configurations"
    );

    /// # Errors
    /// Invalid, existing already, or no server answered.
    pub async fn create_service(&self, service: &Service) -> Result<Written, Error> {
        let request = write_request(service, "")?;
        written(unary!(self, ServingServiceClient, create_service, request)?)
    }

    /// Replaces a Service; an `etag` makes it conditional on that version.
    ///
    /// # Errors
    /// Invalid, absent, changed meanwhile, or no server answered.
    pub async fn update_service(&self, service: &Service, etag: &str) -> Result<Written, Error> {
        let request = write_request(service, etag)?;
        written(unary!(self, ServingServiceClient, update_service, request)?)
    }

    /// Creates or replaces a Service.
    ///
    /// # Errors
    /// Invalid, or no server answered.
    pub async fn apply_service(&self, service: &Service) -> Result<Written, Error> {
        let request = write_request(service, "")?;
        written(unary!(self, ServingServiceClient, apply_service, request)?)
    }

    /// Deletes a Service with all it owns; returns the log index.
    ///
    /// # Errors
    /// Not found, or no server answered.
    pub async fn delete_service(&self, namespace: &str, name: &str) -> Result<u64, Error> {
        let request = pb::DeleteRequest {
            name: service_name(namespace, name),
            request_id: request_id(),
            etag: String::new(),
        };
        Ok(unary!(self, ServingServiceClient, delete_service, request)?.index)
    }

    /// Replaces a Service's traffic, whatever else of the Service changes at the same time.
    ///
    /// # Errors
    /// Invalid, absent, changed again and again meanwhile, or no server answered.
    pub async fn set_traffic(
        &self,
        namespace: &str,
        name: &str,
        traffic: &[TrafficTarget],
    ) -> Result<Written, Error> {
        let traffic = bytes_of(&traffic)?;
        let mut n_conflicts = 0;
        loop {
            // Each try is another write: it is made on another version.
            let request = pb::SetTrafficRequest {
                name: service_name(namespace, name),
                traffic: traffic.clone().into(),
                request_id: request_id(),
                etag: String::new(),
            };
            match unary!(self, ServingServiceClient, set_traffic, request) {
                Err(error) if error.is_conflict() && n_conflicts < MAX_CONFLICTS => {
                    n_conflicts += 1;
                }
                outcome => return written(outcome?),
            }
        }
    }

    /// Watches from `request.resource_version` on; connects with the first event asked for.
    pub fn watch(&self, request: pb::WatchRequest) -> Watch {
        Watch::new(self.clone(), request)
    }

    /// # Errors
    /// No server answered.
    pub async fn logs(&self, request: pb::LogsRequest) -> Result<LogStream, Error> {
        // No deadline: following lasts as long as the reader wants.
        let stream = self
            .call(|channel| {
                let request = Request::new(request.clone());
                async move {
                    ObserveServiceClient::new(channel)
                        .stream_logs(request)
                        .await
                }
            })
            .await?;
        Ok(LogStream {
            stream,
            server: self.address(self.current()).to_owned(),
        })
    }

    /// Instances of one namespace or all, as the nodes report them now.
    ///
    /// # Errors
    /// No server answered.
    pub async fn instances(
        &self,
        namespace: Option<&str>,
        service: &str,
    ) -> Result<pb::ListInstancesResponse, Error> {
        let request = pb::ListInstancesRequest {
            parent: parent(namespace),
            service: service.into(),
        };
        unary!(self, ObserveServiceClient, list_instances, request)
    }

    /// Why the autoscaler of a revision wants what it wants.
    ///
    /// # Errors
    /// Not found, or no server answered.
    pub async fn explain(
        &self,
        namespace: &str,
        revision: &str,
    ) -> Result<serde_json::Value, Error> {
        let name = format!("namespaces/{namespace}/revisions/{revision}");
        let answer = unary!(self, ObserveServiceClient, explain, pb::GetRequest { name })?;
        serde_json::from_slice(&answer.report).map_err(Error::bad_answer)
    }
}

impl LogStream {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn next(&mut self) -> Result<Option<pb::LogLine>, Error> {
        self.stream
            .message()
            .await
            .map_err(|status| Error::from_status(&status, &self.server))
    }
}

fn service_name(namespace: &str, name: &str) -> String {
    format!("namespaces/{namespace}/services/{name}")
}

pub(crate) fn parent(namespace: Option<&str>) -> String {
    namespace
        .map(|namespace| format!("namespaces/{namespace}"))
        .unwrap_or_default()
}

fn write_request(service: &Service, etag: &str) -> Result<pb::WriteRequest, Error> {
    Ok(pb::WriteRequest {
        json: serde_json::to_vec(service)
            .map_err(Error::bad_answer)?
            .into(),
        request_id: request_id(),
        etag: etag.into(),
        validate_only: false,
    })
}

fn bytes_of<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(tonic::Code::InvalidArgument, "MALFORMED", error.to_string()))
}

pub(crate) fn stored<T: DeserializeOwned>(object: pb::Object) -> Result<Stored<T>, Error> {
    let decoded = serde_json::from_slice(&object.json).map_err(Error::bad_answer)?;
    Ok(Stored {
        object: decoded,
        etag: object.etag,
    })
}

pub(crate) fn listed<T: DeserializeOwned>(list: pb::ListResponse) -> Result<Listed<T>, Error> {
    let items = list.items.into_iter().map(|item| Ok(stored(item)?.object));
    Ok(Listed {
        items: items.collect::<Result<_, _>>()?,
        resource_version: list.resource_version,
    })
}

fn written(answer: pb::WriteResponse) -> Result<Written, Error> {
    let change = answer.change();
    let object = answer
        .object
        .ok_or_else(|| Error::bad_answer("a write without its object"))?;
    Ok(Written {
        service: stored(object)?.object,
        change,
        index: answer.index,
    })
}
