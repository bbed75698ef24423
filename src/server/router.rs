//! What is answered where.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::UPGRADE;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{any, get};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use tower::Service as _;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

use super::door::Peer;
use super::listen::Seat;
use super::{Front, admin, door, errors, page, v1};

/// All routes.
#[derive(Debug)]
pub struct Routes {
    /// For what clients ask the accounts. It takes no turn through the other routes: to be matched
    /// with their patterns costs a request more than to find its account.
    direct: Option<Front>,
    router: Router,
}

/// All routes. Where scripts of other pages may call, there is a layer that all of them go through.
pub fn routes(front: Front) -> Routes {
    let direct = (!front.door.allows_origins()).then(|| front.clone());
    Routes {
        direct,
        router: router(front),
    }
}

impl From<Router> for Routes {
    fn from(router: Router) -> Routes {
        Routes { direct: None, router }
    }
}

fn router(front: Front) -> Router {
    let routes = Router::new()
        .route("/v1/{*path}", any(v1::answer))
        .merge(for_people(&front))
        .merge(admin::metrics_router(&front))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(async |uri: Uri| errors::unknown_route(uri.path()))
        .method_not_allowed_fallback(async || errors::method_not_allowed());
    // Every layer costs every request some allocations.
    let routes = match front.door.allows_origins() {
        true => routes.layer(cors(&front)),
        false => routes,
    };
    routes.with_state(front)
}

/// Answers one request. What holds for all of them stands here, and not in layers around each route.
pub(super) async fn answer(
    routes: Arc<Routes>,
    peer: Peer,
    seat: Seat,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible> {
    if !door::is_plain(request.uri().path()) {
        return Ok(errors::odd_path());
    }
    request.extensions_mut().insert(peer);
    // A connection that leaves HTTP keeps its place.
    if request.headers().contains_key(UPGRADE) {
        request.extensions_mut().insert(seat);
    }
    let answer = AssertUnwindSafe(async move {
        match &routes.direct {
            Some(front) if request.uri().path().starts_with("/v1/") => {
                Ok(v1::answer(State(front.clone()), request.map(Body::new)).await)
            }
            _ => routes.router.clone().call(request).await,
        }
    });
    // A panic ends one request, and says so in its row.
    answer
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Ok(errors::internal()))
}

/// The page and the admin API: for those who name this machine as it is called, and in no other
/// page's frame. What programs call has its own key in every request, and nothing a browser adds.
fn for_people(front: &Front) -> Router<Front> {
    Router::new()
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .merge(admin::router(front))
        .layer(middleware::from_fn_with_state(front.clone(), door::check_host))
        .layer(middleware::map_response(door::harden))
}

/// Scripts of other pages may call `/v1` only if their origin was named.
fn cors(front: &Front) -> CorsLayer {
    let origins: Vec<_> = front.door.allowed_origins().collect();
    let for_v1 = move |origin: &HeaderValue, request: &Parts| {
        request.uri.path().starts_with("/v1/") && origins.contains(origin)
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(for_v1))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list(EXPOSED.map(HeaderName::from_static)))
}

/// What the scripts of other pages can read of an answer's head.
const EXPOSED: [&str; 6] = [
    "x-moorage-request-id",
    "x-moorage-account",
    "x-moorage-affinity",
    "x-request-id",
    "retry-after",
    "retry-after-ms",
];

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
