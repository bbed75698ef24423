//! What a request can point with: the kinds, the digests under which they are kept, and who owns what
//! they point at.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::account::AccountId;

/// A chain of responses. Its UUID is its prompt cache key unless the client names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConversationId(pub Uuid);

impl ConversationId {
    /// A new one. Version 7: those of one day stand together in an index.
    pub fn new() -> ConversationId {
        ConversationId(Uuid::now_v7())
    }
}

impl Default for ConversationId {
    fn default() -> Self {
        Self::new()
    }
}

/// Identity of a connection that holds responses which are not stored. One that was before a
/// restart is never met again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub i64);

impl ConnectionId {
    /// A new one.
    pub fn new() -> ConnectionId {
        let (bits, _) = Uuid::new_v4().as_u64_pair();
        ConnectionId((bits >> 1).cast_signed())
    }
}

impl Default for ConnectionId {
    fn default() -> Self {
        Self::new()
    }
}

/// The kinds of references, in the order in which they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReferenceKind {
    /// The id in the path. Hard.
    Path,
    /// `previous_response_id`. Hard.
    Response,
    /// `conversation`. Hard.
    Conversation,
    /// The id of an `item_reference`. Hard.
    Item,
    /// A `file_id`. Hard.
    File,
    /// One of `vector_store_ids`. Hard.
    VectorStore,
    /// The id of a container. Hard.
    Container,
    /// A text that looks like an id, where the API is not known well enough to say that it is one.
    /// Hard where it is known, and nothing where it is not.
    Mentioned,
    /// `encrypted_content` of a compaction item: it is the history itself, and cannot be left out.
    /// Hard where it is known; where it is not, the upstream judges.
    Compaction,
    /// `encrypted_content` of a reasoning item. Firm.
    Reasoning,
    /// The id of an item that is sent whole. Soft.
    ItemId,
    /// A header that names a session, together with instructions and tools. Soft.
    Session,
    /// `prompt_cache_key`. Soft.
    CacheKey,
    /// Digest of model, instructions, tools and first user message. Soft.
    Prefix,
    /// What the client has made before: files that are used together must be in one place. Soft.
    Objects,
}

/// How far a reference binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Only the accounts of its state domain can serve.
    Hard,
    /// The same, but what only they can read can be left out.
    Firm,
    /// Says where the cache is warm.
    Soft,
}

impl Strength {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Strength::Hard => "hard",
            Strength::Firm => "firm",
            Strength::Soft => "soft",
        }
    }
}

impl ReferenceKind {
    /// All of them, in their order.
    pub const ALL: [ReferenceKind; 15] = [
        ReferenceKind::Path,
        ReferenceKind::Response,
        ReferenceKind::Conversation,
        ReferenceKind::Item,
        ReferenceKind::File,
        ReferenceKind::VectorStore,
        ReferenceKind::Container,
        ReferenceKind::Mentioned,
        ReferenceKind::Compaction,
        ReferenceKind::Reasoning,
        ReferenceKind::ItemId,
        ReferenceKind::Session,
        ReferenceKind::CacheKey,
        ReferenceKind::Prefix,
        ReferenceKind::Objects,
    ];

    /// The word for it in `affinity_by`, headers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ReferenceKind::Path => "path",
            ReferenceKind::Response => "previous_response_id",
            ReferenceKind::Conversation => "conversation",
            ReferenceKind::Item => "item_reference",
            ReferenceKind::File => "file_id",
            ReferenceKind::VectorStore => "vector_store_ids",
            ReferenceKind::Container => "container",
            ReferenceKind::Mentioned => "mentioned_id",
            ReferenceKind::Compaction => "compaction",
            ReferenceKind::Reasoning => "encrypted_content",
            ReferenceKind::ItemId => "item_id",
            ReferenceKind::Session => "session",
            ReferenceKind::CacheKey => "prompt_cache_key",
            ReferenceKind::Prefix => "prefix",
            ReferenceKind::Objects => "earlier_objects",
        }
    }

    /// How far it binds.
    pub fn strength(self) -> Strength {
        match self {
            ReferenceKind::Path
            | ReferenceKind::Response
            | ReferenceKind::Conversation
            | ReferenceKind::Item
            | ReferenceKind::File
            | ReferenceKind::VectorStore
            | ReferenceKind::Container
            | ReferenceKind::Mentioned
            | ReferenceKind::Compaction => Strength::Hard,
            ReferenceKind::Reasoning => Strength::Firm,
            ReferenceKind::ItemId
            | ReferenceKind::Session
            | ReferenceKind::CacheKey
            | ReferenceKind::Prefix
            | ReferenceKind::Objects => Strength::Soft,
        }
    }

    /// Whether only the owner can serve what the reference names.
    pub fn is_hard(self) -> bool {
        self.strength() == Strength::Hard
    }

    /// Whether a request that points with it is refused where nobody knows it.
    pub fn must_be_known(self) -> bool {
        self.is_hard() && !matches!(self, ReferenceKind::Mentioned | ReferenceKind::Compaction)
    }

    /// Whether it is an id that an upstream gave to something, wherever the request has it: what is
    /// written down as an answer's id is found as the next request's `previous_response_id`.
    pub fn is_id(self) -> bool {
        (self.is_hard() && self != ReferenceKind::Compaction) || self == ReferenceKind::ItemId
    }
}

/// Something in a request that points at an account, as the digest under which it is kept. The
/// scope is part of the digest: an id of another client key's is as unknown as one that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference {
    /// What it is.
    pub kind: ReferenceKind,
    /// Of an id: 96 bits that stand for the id in every scope, the first of them its time where it
    /// tells one (see [`made_at`]), and 32 bits that stand for it in this scope. Of anything else:
    /// the first 128 bits of a SHA-256 over all of it.
    pub digest: [u8; 16],
}

/// Bytes of an id's digest that are the same in every scope.
const ID_BYTES: usize = 12;

impl Reference {
    /// The reference that `value` is within a scope of client keys.
    pub fn new(scope: &str, kind: ReferenceKind, value: &[u8]) -> Reference {
        let space = match kind {
            kind if kind.is_id() => "id",
            ReferenceKind::Compaction | ReferenceKind::Reasoning => "sealed",
            other => other.as_str(),
        };
        let scoped = Sha256::new()
            .chain_update((scope.len() as u64).to_le_bytes())
            .chain_update(scope)
            .chain_update(space)
            .chain_update([0])
            .chain_update(value)
            .finalize();
        let mut digest = [0; 16];
        if kind.is_id() {
            digest[..ID_BYTES].copy_from_slice(&Sha256::digest(value)[..ID_BYTES]);
            digest[ID_BYTES..].copy_from_slice(&scoped[..16 - ID_BYTES]);
            if let Some(seconds) = made_at(value) {
                digest[..4].copy_from_slice(&seconds);
            }
        } else {
            digest.copy_from_slice(&scoped[..16]);
        }
        Reference { kind, digest }
    }

    /// What is known while the figures of a response in the background are still to come: they are
    /// counted where they are told first.
    pub fn owed_figures(scope: &str, response_id: &str) -> Reference {
        let space = format!("owed figures\0{response_id}");
        let digest = Sha256::new()
            .chain_update((scope.len() as u64).to_le_bytes())
            .chain_update(scope)
            .chain_update(space)
            .finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Reference {
            kind: ReferenceKind::Path,
            digest: short,
        }
    }

    /// The first and the last digest that the same id can have in any scope.
    pub fn in_any_scope(&self) -> [[u8; 16]; 2] {
        let (mut first, mut last) = (self.digest, self.digest);
        first[ID_BYTES..].fill(0);
        last[ID_BYTES..].fill(0xff);
        [first, last]
    }
}

/// The moment at which an id was made, if it looks as if it told it.
///
/// Ids of the Responses API go on after their prefix with the second in hexadecimal, as in
/// `resp_67ccd2be…`. Kept under it, ids that were made together stand together in the table, and a
/// commit writes one page of it, not one for each id. What only looks like it is spread as evenly
/// as a digest; 64 bits of the digest remain within one second, so that no id is taken for another.
fn made_at(id: &[u8]) -> Option<[u8; 4]> {
    const TIME_DIGITS: usize = 8;
    const DIGITS_MIN: usize = 24;
    let start = memchr::memchr(b'_', id)? + 1;
    let digits = &id[start..];
    if digits.len() < DIGITS_MIN {
        return None;
    }
    let time = std::str::from_utf8(&digits[..TIME_DIGITS]).ok()?;
    let plain = time.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(time, 16)
        .ok()
        .filter(|_| plain)
        .map(u32::to_be_bytes)
}

/// What is known of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The account that answered.
    pub account: AccountId,
    /// The conversation that it belongs to.
    pub conversation: ConversationId,
    /// When it is forgotten, in milliseconds since 1970 UTC.
    pub expires_at_ms: i64,
    /// Of a preference: since when it could not be honoured, in milliseconds since 1970 UTC.
    pub detour_since_ms: Option<i64>,
    /// Of a response that is not stored: the connection that alone knows it, while it lasts.
    pub connection: Option<ConnectionId>,
}

/// A reference of the request, with its owner if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What the request points with.
    pub reference: Reference,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// Of sealed content: which item of the input holds it.
    pub position: usize,
}

impl Found {
    /// What it is.
    pub fn kind(&self) -> ReferenceKind {
        self.reference.kind
    }
}
