//! Which endpoint a path is, and what that means: what its ids are, how its body is read, what its
//! answer tells. The order matters: `/responses/compact` is no response.

use std::borrow::Cow;

use http::Method;

use crate::limits;

/// An endpoint with the ids in its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The path after `/v1` with `{id}` for every id, as the row keeps it.
    pub name: Cow<'static, str>,
    /// What is done there.
    pub role: Role,
    /// What the path points at: the id of the thing itself, decoded. What stands below it belongs
    /// to it.
    pub id: Option<String>,
    /// Segments of a path that is not known, any of which may be an id.
    pub mentioned: Vec<String>,
    /// The model that the path names: only who has it can tell about it.
    pub model: Option<String>,
}

/// What is done at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A model answers.
    Generate(Api),
    /// Something is made, whose id is in the answer.
    Create,
    /// The things of all accounts.
    List,
    /// The models of all accounts.
    Models,
    /// A thing, or what stands below it, is read or changed.
    Use,
    /// A thing is deleted.
    Delete,
    /// Not known: passed on.
    Other,
}

/// The forms in which models are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `POST /responses`.
    Responses,
    /// `POST /responses/compact`.
    Compact,
    /// `POST /responses/input_tokens`.
    InputTokens,
    /// `POST /chat/completions`.
    Chat,
    /// `POST /completions`.
    Completions,
    /// `POST /embeddings`.
    Embeddings,
}

impl Api {
    /// Whether a conversation goes on there, so that its cache can be warm.
    pub fn converses(self) -> bool {
        !matches!(self, Api::Embeddings)
    }

    /// Whether a missing `prompt_cache_key` is filled in.
    pub fn takes_cache_key(self) -> bool {
        matches!(self, Api::Responses | Api::Compact | Api::Chat)
    }

    /// Whether a stream tells its figures only on request, and ends with `[DONE]`.
    pub fn is_chat(self) -> bool {
        matches!(self, Api::Chat | Api::Completions)
    }
}

/// A collection of things with ids, by the segments of its path.
struct Collection {
    path: &'static str,
    /// What a thing is called where nobody knows it.
    thing: &'static str,
    /// How the upstream lists them.
    listed: Listed,
}

/// How a collection is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    /// Not at all.
    Not,
    /// Newest first, and no other way.
    NewestFirst,
    /// Either way round, newest first unless it is said otherwise.
    EitherWay,
    /// Either way round, oldest first unless it is said otherwise.
    EitherWayOldestFirst,
}

const COLLECTIONS: [Collection; 10] = [
    collection("responses", "Response", Listed::Not),
    collection("conversations", "Conversation", Listed::Not),
    collection("files", "File", Listed::EitherWay),
    collection("uploads", "Upload", Listed::Not),
    collection("vector_stores", "Vector store", Listed::EitherWay),
    collection("containers", "Container", Listed::EitherWay),
    collection(
        "chat/completions",
        "Chat completion",
        Listed::EitherWayOldestFirst,
    ),
    collection("batches", "Batch", Listed::NewestFirst),
    collection("fine_tuning/jobs", "Fine-tuning job", Listed::NewestFirst),
    collection("videos", "Video", Listed::EitherWay),
];

const fn collection(path: &'static str, thing: &'static str, listed: Listed) -> Collection {
    Collection { path, thing, listed }
}

/// Endpoints at which a model is asked, before the collections: `compact` is no id.
const GENERATORS: [(&str, Api); 6] = [
    ("responses", Api::Responses),
    ("responses/compact", Api::Compact),
    ("responses/input_tokens", Api::InputTokens),
    ("chat/completions", Api::Chat),
    ("completions", Api::Completions),
    ("embeddings", Api::Embeddings),
];

impl Endpoint {
    /// Reads the path after `/v1`. `None` where it has a segment that is none: empty, or one that
    /// leads elsewhere (`..`), however it is written.
    pub fn of(method: &Method, path: &str) -> Option<Endpoint> {
        let path = path.strip_prefix('/')?;
        let decoded: Vec<Cow<'_, str>> = path.split('/').map(segment).collect::<Option<_>>()?;
        let known = |words: &str| -> bool {
            let mut wanted = words.split('/');
            let mut segments = decoded.iter();
            wanted.all(|word| segments.next().is_some_and(|segment| segment == word))
        };
        let depth = |words: &str| words.split('/').count();
        if *method == Method::POST
            && let Some((words, api)) = GENERATORS
                .iter()
                .find(|(words, _)| decoded.len() == depth(words) && known(words))
        {
            return Some(Endpoint::named(format!("/{words}"), Role::Generate(*api)));
        }
        if known("models") {
            return Some(models(method, &decoded));
        }
        let Some(collection) = COLLECTIONS.iter().find(|collection| known(collection.path)) else {
            return Some(other(&decoded));
        };
        let below = &decoded[depth(collection.path)..];
        Some(collection.endpoint(method, below))
    }

    /// An endpoint of which nothing but its name is known.
    pub fn named(name: impl Into<Cow<'static, str>>, role: Role) -> Endpoint {
        Endpoint {
            name: name.into(),
            role,
            id: None,
            mentioned: Vec::new(),
            model: None,
        }
    }

    fn collection(&self) -> Option<&'static Collection> {
        let of = |collection: &&Collection| self.name[1..].starts_with(collection.path);
        COLLECTIONS.iter().find(of)
    }

    /// What the thing that the path points at is called.
    pub fn thing(&self) -> &'static str {
        self.collection().map_or("Object", |collection| collection.thing)
    }

    /// Whether its list has the oldest first where nothing is said, if it can be had either way round.
    pub fn oldest_first(&self) -> Option<bool> {
        match self.collection()?.listed {
            Listed::EitherWay => Some(false),
            Listed::EitherWayOldestFirst => Some(true),
            Listed::Not | Listed::NewestFirst => None,
        }
    }

    /// Whether a model answers, and how it is asked.
    pub fn api(&self) -> Option<Api> {
        match self.role {
            Role::Generate(api) => Some(api),
            _ => None,
        }
    }
}

impl Collection {
    fn endpoint(&self, method: &Method, below: &[Cow<'_, str>]) -> Endpoint {
        let mut name = format!("/{}", self.path);
        // Names and ids take turns below a thing.
        for (index, segment) in below.iter().enumerate() {
            name.push('/');
            name.push_str(if index % 2 == 0 { "{id}" } else { segment });
        }
        name.truncate(name.floor_char_boundary(limits::NAME_BYTES_MAX));
        let role = match (method.as_str(), below.len()) {
            ("POST", 0) => Role::Create,
            ("GET", 0) if self.listed != Listed::Not => Role::List,
            (_, 0) => Role::Other,
            ("DELETE", 1) => Role::Delete,
            // Items of a conversation, the file of an upload: they can be pointed at later, too.
            ("POST", _) if below.len() > 1 => Role::Create,
            _ => Role::Use,
        };
        Endpoint {
            id: below.first().map(|id| id.clone().into_owned()),
            ..Endpoint::named(name, role)
        }
    }
}

fn models(method: &Method, decoded: &[Cow<'_, str>]) -> Endpoint {
    match (method.as_str(), decoded.len()) {
        ("GET" | "HEAD", 1) => Endpoint::named("/models", Role::Models),
        _ => Endpoint {
            // A model's name may have slashes of its own.
            model: Some(decoded[1..].join("/")).filter(|model| model.len() <= limits::NAME_BYTES_MAX),
            ..Endpoint::named("/models/{id}", Role::Other)
        },
    }
}

fn other(decoded: &[Cow<'_, str>]) -> Endpoint {
    let first = decoded.first().map_or("", |segment| &**segment);
    let rest = if decoded.len() > 1 { "/*" } else { "" };
    let mut name = format!("/{first}");
    name.truncate(name.floor_char_boundary(limits::NAME_BYTES_MAX));
    Endpoint {
        mentioned: decoded
            .iter()
            .map(|segment| segment.clone().into_owned())
            .collect(),
        ..Endpoint::named(format!("{name}{rest}"), Role::Other)
    }
}

/// A segment with its percent signs resolved; `None` where it would be read as something else than
/// one segment by whoever reads it next.
fn segment(raw: &str) -> Option<Cow<'_, str>> {
    let decoded = match raw.contains('%') {
        false => Cow::Borrowed(raw),
        true => Cow::Owned(percent_decoded(raw)?),
    };
    let is_plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | '?' | '#');
    let usable = !matches!(&*decoded, "" | "." | "..")
        && decoded.chars().all(is_plain)
        && decoded.len() <= limits::REFERENCE_BYTES_MAX;
    usable.then_some(decoded)
}

fn percent_decoded(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_the_endpoint_that_the_api_means() {
        use Role::*;
        let cases = [
            ("POST", "/responses", "/responses", Generate(Api::Responses), None),
            (
                "POST",
                "/responses/compact",
                "/responses/compact",
                Generate(Api::Compact),
                None,
            ),
            (
                "POST",
                "/responses/input_tokens",
                "/responses/input_tokens",
                Generate(Api::InputTokens),
                None,
            ),
            (
                "GET",
                "/responses/compact",
                "/responses/{id}",
                Use,
                Some("compact"),
            ),
            ("GET", "/responses/resp_1", "/responses/{id}", Use, Some("resp_1")),
            (
                "DELETE",
                "/responses/resp%5F1",
                "/responses/{id}",
                Delete,
                Some("resp_1"),
            ),
            (
                "POST",
                "/responses/resp_1/cancel",
                "/responses/{id}/cancel",
                Create,
                Some("resp_1"),
            ),
            (
                "GET",
                "/conversations/conv_1/items/msg_1",
                "/conversations/{id}/items/{id}",
                Use,
                Some("conv_1"),
            ),
            (
                "DELETE",
                "/conversations/conv_1/items/msg_1",
                "/conversations/{id}/items/{id}",
                Use,
                Some("conv_1"),
            ),
            ("POST", "/files", "/files", Create, None),
            ("GET", "/files", "/files", List, None),
            (
                "GET",
                "/files/file-1/content",
                "/files/{id}/content",
                Use,
                Some("file-1"),
            ),
            (
                "POST",
                "/chat/completions",
                "/chat/completions",
                Generate(Api::Chat),
                None,
            ),
            ("GET", "/chat/completions", "/chat/completions", List, None),
            (
                "GET",
                "/chat/completions/chatcmpl-1/messages",
                "/chat/completions/{id}/messages",
                Use,
                Some("chatcmpl-1"),
            ),
            ("GET", "/models", "/models", Models, None),
            ("GET", "/models/org/model", "/models/{id}", Other, None),
            ("POST", "/audio/speech", "/audio/*", Other, None),
            ("POST", "/moderations", "/moderations", Other, None),
        ];
        for (method, path, name, role, id) in cases {
            let endpoint = Endpoint::of(&method.parse().unwrap(), path).unwrap();
            assert_eq!(
                (&*endpoint.name, endpoint.role, endpoint.id.as_deref()),
                (name, role, id),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_none() {
        for path in [
            "/files/../responses/resp_1",
            "/files/%2e%2e/responses/resp_1",
            "/files/.%2E/x",
            "/files//x",
            "/files/",
            "/files/a%2fb",
            "/files/a%5Cb",
            "/files/a%zz",
            "/files/a%0d",
            "files",
        ] {
            assert_eq!(Endpoint::of(&Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn what_is_not_known_is_named_in_the_words_of_the_api() {
        let thing = |path: &str| Endpoint::of(&Method::GET, path).unwrap().thing();
        assert_eq!(thing("/vector_stores/vs_1/files"), "Vector store");
        assert_eq!(thing("/chat/completions/x"), "Chat completion");
        assert_eq!(thing("/audio/x"), "Object");
    }
}
