//! The input of a request, item by item: what it points with, what is sealed in it, and how it begins.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{Name, Named};
use crate::affinity::ReferenceKind;
use crate::limits;

/// What an input item holds that only its maker can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which item of the input.
    pub position: usize,
    /// Whether it is a compaction item, which cannot be left out; else it is reasoning.
    pub is_compaction: bool,
    /// What identifies it.
    pub by: SealedBy,
}

/// What identifies sealed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedBy {
    /// The digest of its `encrypted_content`.
    Content([u8; 32]),
    /// The id of a reasoning item that is sent without: its maker alone knows what was thought.
    Id(String),
}

/// What is known of `input`, or of the `messages` of a chat, after one pass.
#[derive(Default)]
pub(super) struct Input<'a> {
    pub(super) items: u64,
    pub(super) has_history: bool,
    pub(super) first_user_message: Option<[u8; 32]>,
    /// Of a chat: what its system messages say before the first user message.
    pub(super) instructions: Option<[u8; 32]>,
    pub(super) references: Vec<Named>,
    /// The newest sealed contents with their positions, as they stand.
    contents: VecDeque<(usize, bool, &'a RawValue)>,
    /// Reasoning that is sent by its id alone.
    thoughts: Vec<(usize, &'a RawValue)>,
    item_ids: VecDeque<&'a RawValue>,
}

impl<'a> Input<'a> {
    fn add(&mut self, item: Item<'a>, is_chat: bool) {
        let position = usize::try_from(self.items).unwrap_or(usize::MAX);
        self.items += 1;
        self.add_sealed(position, &item);
        // An item with a role is a message; messages may leave their type out.
        match (item.kind.as_deref(), item.role.as_deref()) {
            (None | Some("message"), Some("user")) => {
                if let (None, Some(content)) = (self.first_user_message, item.content) {
                    self.first_user_message = Some(digest_of_message(content.get()));
                }
            }
            (None | Some("message"), Some("system" | "developer")) => {
                if let (true, None, Some(content)) = (is_chat, self.first_user_message, item.content) {
                    let before = self.instructions.unwrap_or_default();
                    let digest = Sha256::new().chain_update(before).chain_update(content.get());
                    self.instructions = Some(digest.finalize().into());
                }
            }
            (Some("additional_tools" | "configuration_update" | "compaction_trigger"), _) => {}
            _ => self.has_history = true,
        }
    }

    fn add_sealed(&mut self, position: usize, item: &Item<'a>) {
        let content = item.encrypted_content.filter(|content| content.get() != "null");
        match (item.kind.as_deref(), content, item.id) {
            // The type of a reference may be left out.
            (Some("item_reference"), _, Some(id)) => self.add_reference(id),
            (None, None, Some(id)) if item.role.is_none() && !item.has_others => self.add_reference(id),
            (Some(kind), Some(content), _) => {
                push_newest(
                    &mut self.contents,
                    (position, kind != "reasoning", content),
                    limits::SEALED_ITEMS_READ,
                );
            }
            // A blank id names nothing.
            (_, None, Some(id)) if word(id).is_none_or(|id| id.trim().is_empty()) => {}
            (Some("reasoning"), None, Some(id)) => self.thoughts.push((position, id)),
            (_, None, Some(id)) => push_newest(&mut self.item_ids, id, limits::ITEM_IDS_READ),
            _ => {}
        }
    }

    fn add_reference(&mut self, id: &RawValue) {
        let id = text(id).filter(|id| !id.trim().is_empty());
        self.references.extend(id.map(|id| Named {
            kind: ReferenceKind::Item,
            id,
        }));
    }

    /// What is sealed, oldest first.
    pub(super) fn sealed(&self) -> Vec<Sealed> {
        let contents = self
            .contents
            .iter()
            .filter_map(|(position, is_compaction, content)| {
                Some(Sealed {
                    position: *position,
                    is_compaction: *is_compaction,
                    by: SealedBy::Content(Sha256::digest(word(content)?.as_bytes()).into()),
                })
            });
        let thoughts = self.thoughts.iter().filter_map(|(position, id)| {
            Some(Sealed {
                position: *position,
                is_compaction: false,
                by: SealedBy::Id(text(id)?),
            })
        });
        let mut sealed: Vec<Sealed> = contents.chain(thoughts).collect();
        sealed.sort_by_key(|sealed| sealed.position);
        sealed
    }

    pub(super) fn newest_item_ids(&self) -> Vec<String> {
        self.item_ids.iter().filter_map(|id| text(id)).collect()
    }
}

/// Tells first messages apart. Of a long one, with an image or a file inside, by its length and both
/// its ends: it only leads back to a warm cache, and a digest of megabytes takes milliseconds.
fn digest_of_message(text: &str) -> [u8; 32] {
    let bytes = text.as_bytes();
    if bytes.len() <= 2 * END_BYTES {
        return Sha256::digest(bytes).into();
    }
    let (first, last) = (&bytes[..END_BYTES], &bytes[bytes.len() - END_BYTES..]);
    let digest = Sha256::new().chain_update(first).chain_update(last);
    digest.chain_update(bytes.len().to_le_bytes()).finalize().into()
}

/// How much of each end of a long message.
const END_BYTES: usize = 32 * 1024;

fn push_newest<T>(newest: &mut VecDeque<T>, item: T, most: usize) {
    if newest.len() >= most {
        newest.pop_front();
    }
    newest.push_back(item);
}

fn text(value: &RawValue) -> Option<String> {
    word(value).map(Cow::into_owned)
}

pub(super) struct InputSeed {
    /// The messages of a chat, whose system messages are its instructions.
    pub(super) is_chat: bool,
}

impl<'de> DeserializeSeed<'de> for InputSeed {
    type Value = Input<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Input of a type that the API does not know is the upstream's to refuse: it counts as empty.
macro_rules! visit_scalars_as {
    ($value:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

impl<'de> Visitor<'de> for InputSeed {
    type Value = Input<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the input")
    }

    fn visit_str<E>(self, text: &str) -> Result<Input<'de>, E> {
        Ok(Input {
            items: 1,
            first_user_message: Some(digest_of_message(text)),
            ..Input::default()
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Input<'de>, A::Error> {
        let mut input = Input::default();
        while let Some(item) = items.next_element_seed(ItemSeed {
            with_content: input.first_user_message.is_none(),
        })? {
            input.add(item, self.is_chat);
        }
        Ok(input)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Input::default())
    }

    visit_scalars_as!(Input::default());
}

/// What is read of one input item.
#[derive(Default)]
struct Item<'a> {
    kind: Option<Cow<'a, str>>,
    role: Option<Cow<'a, str>>,
    id: Option<&'a RawValue>,
    encrypted_content: Option<&'a RawValue>,
    content: Option<&'a RawValue>,
    /// Whether there is more than type, role and id.
    has_others: bool,
}

struct ItemSeed {
    /// Whether the content is still looked for: only the first user message's is, and what stands
    /// before it.
    with_content: bool,
}

impl<'de> DeserializeSeed<'de> for ItemSeed {
    type Value = Item<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input item")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
        let mut item = Item::default();
        while let Some(name) = map.next_key_seed(Name)? {
            match name.as_ref() {
                b"type" => item.kind = word(map.next_value()?),
                b"role" => item.role = word(map.next_value()?),
                b"id" => item.id = Some(map.next_value()?),
                b"encrypted_content" => item.encrypted_content = Some(map.next_value()?),
                b"content" if self.with_content => {
                    item.content = Some(map.next_value()?);
                    item.has_others = true;
                }
                _ => {
                    item.has_others = true;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(item)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::default())
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Item<'de>, E> {
        Ok(Item::default())
    }

    visit_scalars_as!(Item::default());
}

/// A short word, without a copy where it has no escapes.
pub(super) fn word(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(value.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}
