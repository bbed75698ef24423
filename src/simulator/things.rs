//! What an account keeps besides responses: conversations, files, uploads, vector stores, containers,
//! batches. Each thing belongs to the account that made it; no other has heard of it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest as _, Multipart, Path, Query, Request, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::account::State;
use super::refusal::Refusal;
use crate::clock::now_ms;

/// Content that is kept to be given back. Of larger files only the size is kept, and as many zeros
/// are given back.
const CONTENT_BYTES_MAX: usize = 1024 * 1024;

/// Items of one list, unless it is said otherwise.
const LIST_LIMIT: usize = 20;

/// One thing.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    pub(super) object: Value,
    content: Bytes,
}

impl Thing {
    pub(super) fn new(object: Value) -> Thing {
        Thing {
            object,
            content: Bytes::new(),
        }
    }

    pub(super) fn id(&self) -> &str {
        self.object["id"].as_str().unwrap_or_default()
    }
}

/// All things of an account, by the path of their collection.
#[derive(Debug, Default)]
pub(super) struct Things {
    collections: HashMap<String, Vec<Thing>>,
}

impl Things {
    pub(super) fn add(&mut self, collection: &str, thing: Thing) {
        self.collections
            .entry(collection.to_owned())
            .or_default()
            .push(thing);
    }

    pub(super) fn find(&self, collection: &str, id: &str) -> Option<&Thing> {
        self.all(collection).iter().find(|thing| thing.id() == id)
    }

    pub(super) fn all(&self, collection: &str) -> &[Thing] {
        self.collections.get(collection).map_or(&[], Vec::as_slice)
    }

    fn change(&mut self, collection: &str, id: &str, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let things = self.collections.get_mut(collection)?;
        let thing = things.iter_mut().find(|thing| thing.id() == id)?;
        change(&mut thing.object);
        Some(thing.object.clone())
    }

    fn remove(&mut self, collection: &str, id: &str) -> bool {
        let Some(things) = self.collections.get_mut(collection) else {
            return false;
        };
        let before = things.len();
        things.retain(|thing| thing.id() != id);
        things.len() < before
    }
}

type Answer = Result<Json<Value>, Refusal>;
type Account = Shared<Arc<State>>;
type Parameters = Query<HashMap<String, String>>;

pub(super) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/files", post(upload).get(list))
        .route("/v1/files/{id}", get(retrieve).delete(delete))
        .route("/v1/files/{id}/content", get(content))
        .route("/v1/uploads", post(create))
        .route("/v1/uploads/{id}/parts", post(add_part))
        .route("/v1/uploads/{id}/complete", post(complete_upload))
        .route("/v1/uploads/{id}/cancel", post(cancel))
        .route("/v1/conversations", post(create))
        .route(
            "/v1/conversations/{id}",
            get(retrieve).post(update).delete(delete),
        )
        .route("/v1/conversations/{id}/items", get(list_below).post(add_items))
        .route(
            "/v1/conversations/{id}/items/{item}",
            get(retrieve_below).delete(delete_below),
        )
        .route("/v1/vector_stores", post(create).get(list))
        .route(
            "/v1/vector_stores/{id}",
            get(retrieve).post(update).delete(delete),
        )
        .route("/v1/vector_stores/{id}/files", get(list_below).post(attach))
        .route(
            "/v1/vector_stores/{id}/files/{item}",
            get(retrieve_below).delete(delete_below),
        )
        .route("/v1/vector_stores/{id}/search", post(search))
        .route("/v1/containers", post(create).get(list))
        .route("/v1/containers/{id}", get(retrieve).delete(delete))
        .route("/v1/containers/{id}/files", get(list_below).post(upload_below))
        .route(
            "/v1/containers/{id}/files/{item}",
            get(retrieve_below).delete(delete_below),
        )
        .route("/v1/containers/{id}/files/{item}/content", get(content_below))
        .route("/v1/batches", post(create).get(list))
        .route("/v1/batches/{id}", get(retrieve))
        .route("/v1/batches/{id}/cancel", post(cancel))
}

/// The collection that a path is of, and what its things are called.
fn collection(path: &str) -> (&str, &'static str, &'static str) {
    let name = path
        .trim_start_matches("/v1/")
        .split('/')
        .next()
        .unwrap_or_default();
    match name {
        "files" => (name, "file", "file"),
        "uploads" => (name, "upload", "upload"),
        "conversations" => (name, "conv", "conversation"),
        "vector_stores" => (name, "vs", "vector_store"),
        "containers" => (name, "cntr", "container"),
        _ => ("batches", "batch", "batch"),
    }
}

fn unknown(object: &str, id: &str) -> Refusal {
    Refusal::not_found(format!("No such {object}: '{id}'."), None)
}

fn new_thing(state: &State, prefix: &str, object: &str) -> Value {
    json!({ "id": state.id(prefix), "object": object, "created_at": now_ms() / 1000 })
}

async fn body(request: Request) -> Value {
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
    body.ok()
        .and_then(|body| serde_json::from_slice(&body).ok())
        .unwrap_or_else(|| json!({}))
}

async fn create(Shared(state): Account, request: Request) -> Answer {
    let path = request.uri().path().to_owned();
    let (name, prefix, object) = collection(&path);
    let mut asked = body(request).await;
    for id in asked["file_ids"]
        .as_array()
        .into_iter()
        .flatten()
        .chain(asked.get("input_file_id"))
    {
        state.check_thing("files", "file", id)?;
    }
    let mut thing = new_thing(&state, prefix, object);
    let items = asked["items"].take();
    if let (Some(thing), Some(asked)) = (thing.as_object_mut(), asked.as_object_mut()) {
        asked.retain(|_, value| !value.is_null());
        thing.append(asked);
        thing.entry("metadata").or_insert(json!({}));
        let status = match name {
            "uploads" => "pending",
            "batches" => "validating",
            "containers" => "running",
            _ => "completed",
        };
        if name != "conversations" {
            thing.insert("status".to_owned(), status.into());
        }
    }
    let id = thing["id"].as_str().unwrap_or_default().to_owned();
    let mut things = state.things();
    things.add(name, Thing::new(thing.clone()));
    for item in items.as_array().into_iter().flatten() {
        add_item(&state, &mut things, &id, item);
    }
    Ok(Json(thing))
}

fn add_item(state: &State, things: &mut Things, conversation: &str, item: &Value) -> Value {
    let mut item = item.clone();
    if let Some(members) = item.as_object_mut() {
        members.entry("id").or_insert_with(|| state.id("msg").into());
        members.entry("type").or_insert("message".into());
    }
    things.add(
        &format!("conversations/{conversation}/items"),
        Thing::new(item.clone()),
    );
    item
}

/// A form, read while it comes: only the beginning of a file is kept.
async fn form(state: &State, request: Request) -> Result<(HashMap<String, String>, Thing), Refusal> {
    let refused = |error: &dyn std::fmt::Display| {
        Refusal::bad_request(None, None, format!("The form could not be read: {error}"))
    };
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| refused(&error))?;
    let mut fields = HashMap::new();
    let mut thing = Thing::new(new_thing(state, "file", "file"));
    while let Some(mut field) = form.next_field().await.map_err(|error| refused(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name != "file" && name != "data" {
            fields.insert(name, field.text().await.map_err(|error| refused(&error))?);
            continue;
        }
        thing.object["filename"] = field.file_name().unwrap_or("file").into();
        let mut bytes = 0_u64;
        let mut kept = BytesMut::new();
        let mut digest = Sha256::new();
        while let Some(piece) = field.chunk().await.map_err(|error| refused(&error))? {
            bytes += piece.len() as u64;
            digest.update(&piece);
            if kept.len() + piece.len() <= CONTENT_BYTES_MAX {
                kept.extend_from_slice(&piece);
            }
        }
        thing.object["bytes"] = bytes.into();
        let digest: Vec<String> = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        thing.object["sha256"] = digest.concat().into();
        thing.content = kept.freeze();
    }
    Ok((fields, thing))
}

async fn upload(Shared(state): Account, request: Request) -> Answer {
    let (fields, mut thing) = form(&state, request).await?;
    thing.object["purpose"] = fields.get("purpose").cloned().unwrap_or_default().into();
    thing.object["status"] = "processed".into();
    let object = thing.object.clone();
    state.things().add("files", thing);
    Ok(Json(object))
}

async fn upload_below(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    state.check_thing("containers", "container", &json!(id))?;
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    let mut thing = if is_json {
        let asked = body(request).await;
        state.check_thing("files", "file", &asked["file_id"])?;
        Thing::new(new_thing(&state, "cfile", "container.file"))
    } else {
        form(&state, request).await?.1
    };
    thing.object["id"] = state.id("cfile").into();
    thing.object["container_id"] = id.clone().into();
    let object = thing.object.clone();
    state.things().add(&format!("containers/{id}/files"), thing);
    Ok(Json(object))
}

async fn add_part(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    state.check_thing("uploads", "upload", &json!(id))?;
    let (_, mut thing) = form(&state, request).await?;
    thing.object["id"] = state.id("part").into();
    thing.object["object"] = "upload.part".into();
    thing.object["upload_id"] = id.clone().into();
    let object = thing.object.clone();
    state.things().add(&format!("uploads/{id}/parts"), thing);
    Ok(Json(object))
}

async fn complete_upload(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    let asked = body(request).await;
    let mut things = state.things();
    let parts = format!("uploads/{id}/parts");
    let mut content = BytesMut::new();
    for part in asked["part_ids"].as_array().into_iter().flatten() {
        let part = part.as_str().unwrap_or_default();
        let part = things.find(&parts, part).ok_or_else(|| unknown("part", part))?;
        content.extend_from_slice(&part.content);
    }
    let mut file = Thing::new(new_thing(&state, "file", "file"));
    file.object["bytes"] = content.len().into();
    file.content = content.freeze();
    let object = file.object.clone();
    let upload = things.change("uploads", &id, |upload| {
        upload["status"] = "completed".into();
        upload["file"] = object;
    });
    things.add("files", file);
    upload.map(Json).ok_or_else(|| unknown("upload", &id))
}

async fn cancel(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    let (name, _, object) = collection(request.uri().path());
    let changed = state
        .things()
        .change(name, &id, |thing| thing["status"] = "cancelled".into());
    changed.map(Json).ok_or_else(|| unknown(object, &id))
}

async fn retrieve(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    let (name, _, object) = collection(request.uri().path());
    let things = state.things();
    let thing = things.find(name, &id).ok_or_else(|| unknown(object, &id))?;
    Ok(Json(thing.object.clone()))
}

async fn update(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    let path = request.uri().path().to_owned();
    let (name, _, object) = collection(&path);
    let asked = body(request).await;
    let changed = state.things().change(name, &id, |thing| {
        for (member, value) in asked.as_object().into_iter().flatten() {
            thing[member] = value.clone();
        }
    });
    changed.map(Json).ok_or_else(|| unknown(object, &id))
}

async fn delete(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    let (name, _, object) = collection(request.uri().path());
    match state.things().remove(name, &id) {
        true => Ok(Json(
            json!({ "id": id, "object": format!("{object}.deleted"), "deleted": true }),
        )),
        false => Err(unknown(object, &id)),
    }
}

fn page(things: &[Thing], Query(asked): &Parameters) -> Json<Value> {
    let mut objects: Vec<Value> = things.iter().map(|thing| thing.object.clone()).collect();
    if asked.get("order").is_none_or(|order| order != "asc") {
        objects.reverse();
    }
    if let Some(after) = asked.get("after") {
        let place = objects.iter().position(|object| object["id"] == after.as_str());
        objects = place.map_or_else(Vec::new, |place| objects.split_off(place + 1));
    }
    let limit = asked
        .get("limit")
        .and_then(|limit| limit.parse().ok())
        .unwrap_or(LIST_LIMIT);
    let has_more = objects.len() > limit;
    objects.truncate(limit);
    let id = |object: Option<&Value>| object.map_or(Value::Null, |object| object["id"].clone());
    Json(json!({
        "object": "list", "first_id": id(objects.first()), "last_id": id(objects.last()),
        "has_more": has_more, "data": objects,
    }))
}

/// One page of a collection.
pub(super) fn listed(state: &State, collection: &str, query: Option<&str>) -> Json<Value> {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let asked = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    page(state.things().all(collection), &Query(asked))
}

async fn list(Shared(state): Account, asked: Parameters, request: Request) -> Json<Value> {
    let (name, ..) = collection(request.uri().path());
    page(state.things().all(name), &asked)
}

/// The path of what stands below a thing, which must be there.
fn below(state: &State, path: &str, id: &str) -> Result<String, Refusal> {
    let (name, _, object) = collection(path);
    state.check_thing(name, object, &json!(id))?;
    let what = path
        .trim_start_matches("/v1/")
        .split('/')
        .nth(2)
        .unwrap_or_default();
    Ok(format!("{name}/{id}/{what}"))
}

async fn list_below(
    Shared(state): Account,
    Path(id): Path<String>,
    asked: Parameters,
    request: Request,
) -> Answer {
    let collection = below(&state, request.uri().path(), &id)?;
    Ok(page(state.things().all(&collection), &asked))
}

async fn add_items(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    state.check_thing("conversations", "conversation", &json!(id))?;
    let asked = body(request).await;
    let mut things = state.things();
    let items = asked["items"].as_array().into_iter().flatten();
    let added: Vec<Value> = items
        .map(|item| add_item(&state, &mut things, &id, item))
        .collect();
    Ok(Json(json!({
        "object": "list", "has_more": false, "data": added,
        "first_id": added.first().map(|item| &item["id"]), "last_id": added.last().map(|item| &item["id"]),
    })))
}

async fn attach(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    state.check_thing("vector_stores", "vector_store", &json!(id))?;
    let asked = body(request).await;
    state.check_thing("files", "file", &asked["file_id"])?;
    let file = json!({
        "id": asked["file_id"], "object": "vector_store.file", "created_at": now_ms() / 1000,
        "vector_store_id": id, "status": "completed", "usage_bytes": 0, "last_error": null,
    });
    state
        .things()
        .add(&format!("vector_stores/{id}/files"), Thing::new(file.clone()));
    Ok(Json(file))
}

async fn search(Shared(state): Account, Path(id): Path<String>, request: Request) -> Answer {
    state.check_thing("vector_stores", "vector_store", &json!(id))?;
    let asked = body(request).await;
    Ok(Json(json!({
        "object": "vector_store.search_results.page", "search_query": [asked["query"]],
        "data": [], "has_more": false, "next_page": null,
    })))
}

async fn retrieve_below(
    Shared(state): Account,
    Path((id, item)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let collection = below(&state, request.uri().path(), &id)?;
    let things = state.things();
    let thing = things
        .find(&collection, &item)
        .ok_or_else(|| unknown("item", &item))?;
    Ok(Json(thing.object.clone()))
}

async fn delete_below(
    Shared(state): Account,
    Path((id, item)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let collection = below(&state, request.uri().path(), &id)?;
    match state.things().remove(&collection, &item) {
        true => Ok(Json(json!({ "id": item, "object": "deleted", "deleted": true }))),
        false => Err(unknown("item", &item)),
    }
}

async fn content(Shared(state): Account, Path(id): Path<String>) -> Result<Response, Refusal> {
    given_back(&state, "files", &id)
}

async fn content_below(
    Shared(state): Account,
    Path((id, item)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    given_back(&state, &format!("containers/{id}/files"), &item)
}

fn given_back(state: &State, collection: &str, id: &str) -> Result<Response, Refusal> {
    const ZEROS: &[u8] = &[0; 64 * 1024];
    let things = state.things();
    let thing = things.find(collection, id).ok_or_else(|| unknown("file", id))?;
    let bytes = thing.object["bytes"].as_u64().unwrap_or(0);
    let body = if thing.content.len() as u64 == bytes {
        Body::from(thing.content.clone())
    } else {
        let zeros = futures_util::stream::unfold(bytes, |left| async move {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            let sent: Result<_, std::convert::Infallible> = Ok(Bytes::from_static(&ZEROS[..piece]));
            (piece > 0).then(|| (sent, left - piece as u64))
        });
        Body::from_stream(zeros)
    };
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

impl State {
    pub(super) fn remove_thing(&self, collection: &str, id: &str) -> bool {
        self.things().remove(collection, id)
    }

    /// Puts what was said into a conversation.
    pub(super) fn converse<'a>(&self, conversation: &str, items: impl Iterator<Item = &'a Value>) {
        let mut things = self.things();
        for item in items {
            add_item(self, &mut things, conversation, item);
        }
    }

    /// Whether a request may point at this thing.
    pub(super) fn check_thing(&self, collection: &str, object: &str, id: &Value) -> Result<(), Refusal> {
        let id = id.as_str().unwrap_or_default();
        match self.things().find(collection, id) {
            Some(_) => Ok(()),
            None => Err(unknown(object, id)),
        }
    }

    /// Whether a request may point at everything that it does.
    pub(super) fn check_things(&self, value: &Value) -> Result<(), Refusal> {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.check_things(value)),
            Value::Object(members) => members.iter().try_for_each(|(name, value)| {
                let ids = match value {
                    Value::Array(ids) => ids.as_slice(),
                    one => std::slice::from_ref(one),
                };
                let of = match name.as_str() {
                    "file_id" | "file_ids" => Some(("files", "file")),
                    "vector_store_ids" => Some(("vector_stores", "vector_store")),
                    "container" | "container_id" => Some(("containers", "container")),
                    _ => None,
                };
                if let Some((collection, object)) = of {
                    for id in ids.iter().filter(|id| id.is_string()) {
                        self.check_thing(collection, object, id)?;
                    }
                }
                self.check_things(value)
            }),
            _ => Ok(()),
        }
    }
}
