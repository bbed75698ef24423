//! What is answered where.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{get, post};
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::decompression::{DecompressionBody, RequestDecompressionLayer};

use super::{Front, admin, errors, page, responses};

/// All routes, in their layers.
pub fn router(front: Front) -> Router {
    // From the outside in: what a client compressed is read as what it stands for. An encoding
    // that is not known is let through and refused where the body is read.
    let decompressed = (
        RequestDecompressionLayer::new().pass_through_unaccepted(true),
        MapRequestLayer::new(|request: Request<DecompressionBody<Body>>| request.map(Body::new)),
    );
    Router::new()
        .route(
            "/v1/responses",
            post(responses::create)
                .layer(decompressed)
                .get(responses::upgrade),
        )
        .route("/admin/api/overview", get(admin::overview))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .fallback(async |uri: Uri| errors::unknown_route(uri.path()))
        .method_not_allowed_fallback(async || errors::method_not_allowed())
        // A panic ends one request, and says so in its row.
        .layer(CatchPanicLayer::custom(|_| errors::internal()))
        .with_state(front)
}

/// Whether the gateway can do its work, and what keeps it from it.
async fn ready(State(front): State<Front>) -> Response {
    let gateway = &front.gateway;
    let trouble = gateway.store.trouble();
    let stops = trouble.is_some() && gateway.settings.refuse_without_store;
    let status = match (gateway.pool.is_empty() || stops, &trouble) {
        (true, _) => "not_ready",
        (false, Some(_)) => "degraded",
        (false, None) => "ready",
    };
    let code = match status {
        "not_ready" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let body = serde_json::json!({
        "status": status,
        "accounts": gateway.pool.len(),
        "store": trouble.map_or("written".to_owned(), |trouble| format!("not written: {trouble}")),
    });
    (code, Json(body)).into_response()
}
