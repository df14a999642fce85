//! `GET /metrics` on the admin port, beside gRPC.

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use nihilo_gateway::Gateway;
use tonic::service::Routes;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Adds the page to the admin services.
pub(crate) fn add(routes: Routes, gateway: Gateway) -> Routes {
    let page = move || async move { ([(CONTENT_TYPE, OPEN_METRICS)], gateway.metrics_text()) };
    let router = routes.into_axum_router().route("/metrics", get(page));
    Routes::from(router)
}
