//! Where a request goes, and why: a plain function over what the request points with, who owns
//! that, and how the pool looks now. No I/O, no clock.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::account::{AccountId, StateDomain, Usability};

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

/// The kinds of references, in the order in which they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReferenceKind {
    /// `previous_response_id`, or the id of a response. Hard.
    Response,
    /// The id of an output item. Hard.
    Item,
    /// A header that names a session. Soft.
    Session,
    /// `prompt_cache_key`. Soft.
    CacheKey,
    /// Digest of model, instructions, tools and first user message. Soft.
    Prefix,
}

impl ReferenceKind {
    /// The word for it in `affinity_by`, headers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ReferenceKind::Response => "previous_response_id",
            ReferenceKind::Item => "item_reference",
            ReferenceKind::Session => "session",
            ReferenceKind::CacheKey => "prompt_cache_key",
            ReferenceKind::Prefix => "prefix",
        }
    }

    /// Whether only the owner can serve what the reference names.
    pub fn is_hard(self) -> bool {
        matches!(self, ReferenceKind::Response | ReferenceKind::Item)
    }
}

/// Something in a request that points at an account, as the digest under which it is kept. The
/// scope is part of the digest: an id of another client key's is as unknown as one that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference {
    /// What it is.
    pub kind: ReferenceKind,
    /// The first 128 bits of a SHA-256, behind the time of an id that has one: see [`made_at`].
    pub digest: [u8; 16],
}

impl Reference {
    /// The reference that `value` is within a scope of client keys.
    pub fn new(scope: &str, kind: ReferenceKind, value: &[u8]) -> Reference {
        let digest = Sha256::new()
            .chain_update((scope.len() as u64).to_le_bytes())
            .chain_update(scope)
            .chain_update(kind.as_str())
            .chain_update([0])
            .chain_update(value)
            .finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        if let Some(seconds) = made_at(value).filter(|_| kind.is_hard()) {
            short[..4].copy_from_slice(&seconds);
        }
        Reference { kind, digest: short }
    }
}

/// The moment at which an id was made, if it looks as if it told it.
///
/// Ids of the Responses API go on after their prefix with the second in hexadecimal, as in
/// `resp_67ccd2be…`. Kept under it, ids that were made together stand together in the table, and a
/// commit writes one page of it, not one for each id. What only looks like it is spread as evenly
/// as a digest; 96 bits of the digest remain, so that no id is taken for another.
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
}

/// A reference of the request, with its owner if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What the request points with.
    pub reference: Reference,
    /// Who owns it.
    pub owner: Option<Owner>,
}

/// How an account looks to the planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// Which one.
    pub id: AccountId,
    /// Who else holds its state.
    pub state_domain: StateDomain,
    /// Whether it can be used now.
    pub usability: Usability,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Only these accounts may serve, the first before the others: they hold the state.
    Pinned(Vec<AccountId>),
    /// This account before all others: its cache is warm.
    Preferred(AccountId),
    /// Any account.
    Free,
    /// The account that holds the state is not there any more.
    OwnerGone(AccountId),
    /// A hard reference that nobody knows, where several accounts could hold it.
    Unknown,
}

/// Where a request goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where to.
    pub decision: Decision,
    /// Which reference decided; `None` if nothing did.
    pub by: Option<ReferenceKind>,
    /// Whether the deciding reference has an owner: a hard one that nobody knows has none.
    pub known: bool,
}

/// Decides. `found` is in the order of [`ReferenceKind`]; the first that is known decides, and a
/// hard one decides even if it is not. A hard reference is never given up for a soft one.
pub fn plan(found: &[Found], accounts: &[AccountView]) -> Plan {
    if let Some(hard) = found.iter().find(|found| found.reference.kind.is_hard()) {
        return Plan {
            decision: pin(hard.owner, accounts),
            by: Some(hard.reference.kind),
            known: hard.owner.is_some(),
        };
    }
    let preferred = found.iter().find_map(|soft| {
        let owner = soft.owner?;
        // An account that does not come back by itself is no home: another one becomes it.
        let serves =
            |account: &AccountView| account.id == owner.account && account.usability != Usability::Never;
        let exists = accounts.iter().any(serves);
        exists.then_some((owner.account, soft.reference.kind))
    });
    match preferred {
        Some((account, kind)) => Plan {
            decision: Decision::Preferred(account),
            by: Some(kind),
            known: true,
        },
        None => Plan {
            decision: Decision::Free,
            by: None,
            known: false,
        },
    }
}

fn pin(owner: Option<Owner>, accounts: &[AccountView]) -> Decision {
    let Some(owner) = owner else {
        return pin_unknown(accounts);
    };
    let Some(home) = accounts.iter().find(|account| account.id == owner.account) else {
        return Decision::OwnerGone(owner.account);
    };
    let siblings = accounts
        .iter()
        .filter(|account| account.state_domain == home.state_domain && account.id != home.id);
    let members = std::iter::once(home).chain(siblings);
    Decision::Pinned(members.map(|account| account.id).collect())
}

/// With one state domain there is only one place where the state can be: the upstream says whether
/// it is. With several, a guess could land in front of an account that never heard of it.
fn pin_unknown(accounts: &[AccountView]) -> Decision {
    let Some(first) = accounts.first() else {
        return Decision::Free;
    };
    let only_one = accounts
        .iter()
        .all(|account| account.state_domain == first.state_domain);
    match only_one {
        true => Decision::Pinned(accounts.iter().map(|account| account.id).collect()),
        false => Decision::Unknown,
    }
}

/// The conversation that a request belongs to: inherited from what it points at, or new.
///
/// A chain and a session are a conversation by definition. A prefix tells which conversation a
/// client goes on with only if the request holds history; without, it is the first turn of a new
/// one that happens to begin alike. A cache key may be one for a whole program, and says nothing.
pub fn conversation(found: &[Found], has_history: bool) -> Option<ConversationId> {
    found.iter().find_map(|found| {
        let tells = match found.reference.kind {
            ReferenceKind::Response | ReferenceKind::Item | ReferenceKind::Session => true,
            ReferenceKind::Prefix => has_history,
            ReferenceKind::CacheKey => false,
        };
        found.owner.filter(|_| tells).map(|owner| owner.conversation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: i64, domain: &str) -> AccountView {
        AccountView {
            id: AccountId(id),
            state_domain: StateDomain(domain.into()),
            usability: Usability::Usable,
        }
    }

    fn found(kind: ReferenceKind, owner: Option<i64>) -> Found {
        Found {
            reference: Reference::new("scope", kind, b"value"),
            owner: owner.map(|id| Owner {
                account: AccountId(id),
                conversation: ConversationId(Uuid::from_u128(id as u128)),
                expires_at_ms: 0,
            }),
        }
    }

    #[test]
    fn ids_of_one_moment_stand_together_and_are_never_mixed_up() {
        let digest = |scope, kind, id: &str| Reference::new(scope, kind, id.as_bytes()).digest;
        let id = "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b";
        let next = "msg_67ccd2bf3d2c8190a7d1b7d1a1c1c1c1c1c1c1c1c1c1c1c1";
        assert_eq!(digest("s", Response, id)[..4], [0x67, 0xcc, 0xd2, 0xbe]);
        assert_eq!(digest("s", Item, next)[..4], [0x67, 0xcc, 0xd2, 0xbf]);
        assert_ne!(digest("s", Response, id), digest("t", Response, id));
        assert_ne!(digest("s", Response, id), digest("s", Item, id));
        for other in [
            "resp_1",
            "0198f0aa-1111-7222-8333-444455556666",
            "resp_+7ccd2bed1ec8190b14f964abc",
            "resp_",
        ] {
            assert_ne!(
                digest("s", Response, other),
                digest("t", Response, other),
                "{other}"
            );
        }
        // What a client makes up itself is spread evenly.
        assert_ne!(digest("s", Session, id)[..4], [0x67, 0xcc, 0xd2, 0xbe]);
    }

    use ReferenceKind::*;

    #[test]
    fn every_reference_decides_as_its_kind_says() {
        let two = [account(1, "a"), account(2, "b")];
        let siblings = [account(1, "a"), account(2, "b"), account(3, "a")];
        let one = [account(1, "a"), account(3, "a")];
        let ids = |ids: &[i64]| ids.iter().copied().map(AccountId).collect::<Vec<_>>();
        type Case<'a> = (
            &'a str,
            Vec<Found>,
            &'a [AccountView],
            Decision,
            Option<ReferenceKind>,
        );
        let cases: [Case<'_>; 12] = [
            ("nothing", vec![], &two, Decision::Free, None),
            (
                "a known response",
                vec![found(Response, Some(2))],
                &two,
                Decision::Pinned(ids(&[2])),
                Some(Response),
            ),
            (
                "a domain of two",
                vec![found(Response, Some(3))],
                &siblings,
                Decision::Pinned(ids(&[3, 1])),
                Some(Response),
            ),
            (
                "an owner that left",
                vec![found(Response, Some(9))],
                &two,
                Decision::OwnerGone(AccountId(9)),
                Some(Response),
            ),
            (
                "unknown, several domains",
                vec![found(Response, None)],
                &two,
                Decision::Unknown,
                Some(Response),
            ),
            (
                "unknown, one domain",
                vec![found(Response, None)],
                &one,
                Decision::Pinned(ids(&[1, 3])),
                Some(Response),
            ),
            (
                "hard before soft",
                vec![found(Response, Some(1)), found(Session, Some(2))],
                &two,
                Decision::Pinned(ids(&[1])),
                Some(Response),
            ),
            (
                "unknown hard, known soft",
                vec![found(Response, None), found(Session, Some(2))],
                &two,
                Decision::Unknown,
                Some(Response),
            ),
            (
                "a session",
                vec![found(Session, Some(2)), found(CacheKey, Some(1))],
                &two,
                Decision::Preferred(AccountId(2)),
                Some(Session),
            ),
            (
                "the first known",
                vec![
                    found(Session, None),
                    found(CacheKey, Some(1)),
                    found(Prefix, Some(2)),
                ],
                &two,
                Decision::Preferred(AccountId(1)),
                Some(CacheKey),
            ),
            (
                "a preference that left",
                vec![found(Session, Some(9)), found(Prefix, Some(2))],
                &two,
                Decision::Preferred(AccountId(2)),
                Some(Prefix),
            ),
            (
                "nothing known",
                vec![found(Session, None), found(Prefix, None)],
                &two,
                Decision::Free,
                None,
            ),
        ];
        for (case, found, accounts, decision, by) in cases {
            let plan = plan(&found, accounts);
            assert_eq!((plan.decision, plan.by), (decision, by), "{case}");
        }
    }

    #[test]
    fn a_conversation_is_inherited_from_what_identifies_it() {
        let id = |n: u128| Some(ConversationId(Uuid::from_u128(n)));
        let all = |session, key, prefix| {
            [
                found(Session, session),
                found(CacheKey, key),
                found(Prefix, prefix),
            ]
        };
        assert_eq!(conversation(&[found(Response, Some(5))], false), id(5));
        assert_eq!(conversation(&all(Some(1), Some(2), Some(3)), false), id(1));
        assert_eq!(conversation(&all(None, Some(2), Some(3)), true), id(3));
        assert_eq!(conversation(&all(None, Some(2), Some(3)), false), None);
    }

    #[test]
    fn a_reference_is_another_in_another_scope_or_kind() {
        let base = Reference::new("a", Response, b"x").digest;
        for other in [
            Reference::new("b", Response, b"x"),
            Reference::new("a", Item, b"x"),
            Reference::new("a", Response, b"y"),
            Reference::new("ap", Response, b"x"),
        ] {
            assert_ne!(base, other.digest);
        }
    }
}
