//! The planner as a table: every kind of reference with every state of its owner, and every pair of kinds.

use super::ReferenceKind::*;
use super::*;
use crate::account::{Credential, Kind, StateDomain, Switch};

fn account(id: i64, domain: &str) -> AccountView {
    AccountView {
        account: Arc::new(Account {
            id: AccountId(id),
            name: format!("account-{id}"),
            kind: Kind::OpenAi,
            base_url: String::new(),
            state_domain: StateDomain(domain.into()),
            weight: 1,
            priority: 0,
            max_concurrent: None,
            credential: Credential::None,
            switch: Switch::On,
            revision: 0,
        }),
        usability: Usability::Usable,
        offers_model: None,
    }
}

fn used(id: i64, domain: &str, usability: Usability) -> AccountView {
    AccountView {
        usability,
        ..account(id, domain)
    }
}

fn offering(id: i64, offers: bool) -> AccountView {
    AccountView {
        offers_model: Some(offers),
        ..account(id, &id.to_string())
    }
}

fn found(kind: ReferenceKind, owner: Option<i64>) -> Found {
    at(0, kind, owner)
}

fn at(position: usize, kind: ReferenceKind, owner: Option<i64>) -> Found {
    Found {
        reference: Reference::new("scope", kind, b"value"),
        owner: owner.map(|id| Owner {
            account: AccountId(id),
            conversation: ConversationId(Uuid::from_u128(id as u128)),
            expires_at_ms: 0,
            detour_since_ms: None,
            connection: None,
        }),
        position,
    }
}

fn ids(ids: &[i64]) -> Vec<AccountId> {
    ids.iter().copied().map(AccountId).collect()
}

fn decide(found: &[Found], accounts: &[AccountView]) -> Plan {
    let terms = Terms {
        one_scope: true,
        ..Terms::default()
    };
    plan(found, accounts, terms)
}

/// How the owner of a reference stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Usable,
    Limited,
    OutOfUse,
    Removed,
    Unknown,
}

/// Where the state can be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Domains {
    /// The owner, and a stranger.
    Apart,
    /// The owner, a sibling, and a stranger.
    Shared,
    /// The owner and a sibling, nobody else.
    One,
}

/// Every kind, in every state of its owner, over every arrangement of domains: the decision that
/// the design names for it.
#[test]
fn every_reference_decides_as_its_kind_says_in_every_state_of_its_owner() {
    use State::*;
    for kind in ReferenceKind::ALL {
        for state in [Usable, Limited, OutOfUse, Removed, Unknown] {
            for domains in [Domains::Apart, Domains::Shared, Domains::One] {
                let usability = match state {
                    Limited => Usability::UsableAt(1),
                    OutOfUse => Usability::Never,
                    _ => Usability::Usable,
                };
                let mut accounts = Vec::new();
                if state != Removed {
                    accounts.push(used(1, "home", usability));
                }
                if domains != Domains::Apart {
                    accounts.push(account(2, "home"));
                }
                if domains != Domains::One {
                    accounts.push(account(3, "elsewhere"));
                }
                let owner = (state != Unknown).then_some(1);
                let plan = decide(&[found(kind, owner)], &accounts);
                let expected = expected(kind, state, domains, &accounts);
                assert_eq!(plan.decision, expected, "{kind:?} {state:?} {domains:?}");
                let decides = !matches!(plan.decision, Decision::Free);
                assert_eq!(plan.by, decides.then_some(kind), "{kind:?} {state:?} {domains:?}");
                assert_eq!(
                    plan.known,
                    decides && state != Unknown,
                    "{kind:?} {state:?} {domains:?}"
                );
            }
        }
    }
}

fn expected(kind: ReferenceKind, state: State, domains: Domains, accounts: &[AccountView]) -> Decision {
    let home = match domains {
        Domains::Apart => ids(&[1]),
        _ => ids(&[1, 2]),
    };
    match (kind.strength(), state) {
        (Strength::Hard, State::Removed) => Decision::OwnerGone(AccountId(1)),
        (Strength::Hard, State::Unknown) if !kind.must_be_known() => Decision::Free,
        (Strength::Hard, State::Unknown) => match domains {
            Domains::One => Decision::Pinned(accounts.iter().map(|view| view.account.id).collect()),
            _ => Decision::Unknown(0),
        },
        // A hard reference waits, however long.
        (Strength::Hard, _) => Decision::Pinned(home),
        (_, State::Removed | State::Unknown) => Decision::Free,
        // Firm: as long as anybody who can read it comes back by itself.
        (Strength::Firm, State::OutOfUse) if domains == Domains::Apart => Decision::Free,
        (Strength::Firm, _) => Decision::Pinned(home),
        (Strength::Soft, State::OutOfUse) => Decision::Free,
        (Strength::Soft, _) => Decision::Preferred(AccountId(1)),
    }
}

/// The order of two references is that of their kinds, whichever is stronger or known.
#[test]
fn of_two_references_the_first_that_is_known_decides_and_hard_ones_must_agree() {
    let accounts = [account(1, "a"), account(2, "b")];
    for (index, first) in ReferenceKind::ALL.into_iter().enumerate() {
        for second in ReferenceKind::ALL.into_iter().skip(index) {
            let plan = decide(&[found(first, Some(1)), found(second, Some(2))], &accounts);
            let expected = match (first.strength(), second.strength()) {
                (Strength::Hard, Strength::Hard) => Decision::Conflict(0, 1),
                (Strength::Hard | Strength::Firm, _) => Decision::Pinned(ids(&[1])),
                (Strength::Soft, _) => Decision::Preferred(AccountId(1)),
            };
            assert_eq!(
                (plan.decision, plan.by),
                (expected, Some(first)),
                "{first:?} {second:?}"
            );

            // The first is unknown.
            let plan = decide(&[found(first, None), found(second, Some(2))], &accounts);
            let expected = match (first.must_be_known(), second.strength()) {
                (true, Strength::Firm | Strength::Soft) => (Decision::Unknown(0), Some(first)),
                (_, Strength::Soft) => (Decision::Preferred(AccountId(2)), Some(second)),
                _ => (Decision::Pinned(ids(&[2])), Some(second)),
            };
            assert_eq!(
                (plan.decision, plan.by),
                expected,
                "{first:?} unknown, {second:?}"
            );
        }
    }
}

#[test]
fn two_owners_of_one_domain_are_no_conflict() {
    let accounts = [account(1, "a"), account(2, "b"), account(3, "a")];
    let plan = decide(&[found(Response, Some(3)), found(File, Some(1))], &accounts);
    assert_eq!(plan.decision, Decision::Pinned(ids(&[3, 1])));
}

#[test]
fn with_other_scopes_an_unknown_id_is_not_even_passed_to_the_only_account() {
    let one = [account(1, "a")];
    let plan = plan(&[found(Response, None)], &one, Terms::default());
    assert_eq!(plan.decision, Decision::Unknown(0));
}

#[test]
fn a_request_for_a_model_goes_only_to_accounts_that_have_it() {
    let accounts = [offering(1, false), offering(2, true)];
    let free = decide(&[], &accounts);
    assert_eq!((free.decision, free.without_model), (Decision::Free, ids(&[1])));
    let preferred = decide(&[found(Session, Some(1)), found(Prefix, Some(2))], &accounts);
    assert_eq!(preferred.decision, Decision::Preferred(AccountId(2)));
    // The upstream has the last word where nobody lists it, and where the state is.
    let nobody = decide(&[], &[offering(1, false), offering(2, false)]);
    assert_eq!(nobody.without_model, []);
    let pinned = decide(&[found(Response, Some(1))], &accounts);
    assert_eq!(pinned.decision, Decision::Pinned(ids(&[1])));
}

#[test]
fn what_the_chosen_account_cannot_read_is_left_out() {
    let accounts = [account(1, "a"), account(2, "b"), used(3, "c", Usability::Never)];
    let sealed = |owners: &[(usize, Option<i64>)]| -> Vec<Found> {
        owners
            .iter()
            .map(|(position, owner)| at(*position, Reasoning, *owner))
            .collect()
    };
    let cases = [
        // Newest first, as the planner gets them.
        (sealed(&[(5, Some(1)), (2, Some(1))]), Some(1), Strip::Nothing),
        (sealed(&[(5, Some(1)), (2, Some(2))]), Some(1), Strip::Through(2)),
        (
            sealed(&[(7, Some(1)), (5, Some(2)), (2, Some(1))]),
            Some(1),
            Strip::Through(5),
        ),
        (sealed(&[(7, None), (5, Some(2))]), Some(2), Strip::Nothing),
        // The owner is out of use, or was removed: nothing else can read it.
        (sealed(&[(5, Some(3))]), None, Strip::Through(5)),
        (sealed(&[(5, Some(9))]), None, Strip::Through(5)),
        (sealed(&[(5, None)]), None, Strip::Nothing),
    ];
    for (found, home, strip) in cases {
        let plan = decide(&found, &accounts);
        let expected = home.map_or(Decision::Free, |home| Decision::Pinned(ids(&[home])));
        assert_eq!((plan.decision, plan.strip), (expected, strip), "{found:?}");
    }
    // A hard reference decides, and reasoning from elsewhere is left out.
    let plan = decide(&[found(Response, Some(2)), at(4, Reasoning, Some(1))], &accounts);
    assert_eq!(
        (plan.decision, plan.strip),
        (Decision::Pinned(ids(&[2])), Strip::Through(4))
    );
}

#[test]
fn reasoning_that_is_given_up_no_longer_pins_and_is_all_left_out() {
    let accounts = [account(1, "a"), account(2, "b")];
    let terms = Terms {
        one_scope: true,
        without_reasoning: true,
    };
    let pinned = decide(&[at(3, Reasoning, Some(1))], &accounts);
    assert!(pinned.yields());
    let plan = plan(
        &[at(3, Reasoning, Some(1)), found(Session, Some(2))],
        &accounts,
        terms,
    );
    assert!(!plan.yields());
    assert_eq!(
        (plan.decision, plan.strip),
        (Decision::Preferred(AccountId(2)), Strip::All)
    );
}

#[test]
fn the_reasons_name_every_reference_its_owner_and_who_is_away() {
    let accounts = [
        account(1, "a"),
        used(2, "b", Usability::UsableAt(5)),
        used(3, "c", Usability::Never),
    ];
    let all = [
        found(Item, Some(1)),
        found(Item, Some(1)),
        found(Session, Some(2)),
        found(Prefix, None),
    ];
    let plan = decide(&all, &accounts);
    let line = short(&plan, &all, &accounts).unwrap();
    assert_eq!(
        line,
        "item_reference->account-1; session->account-2; prefix->unknown; account-2 limited; account-3 out of use"
    );
    let words = verdicts(&plan, &accounts);
    assert_eq!(
        words,
        [Verdict::Holds, Verdict::HoldsNothing, Verdict::HoldsNothing]
    );
    assert_eq!(short(&decide(&[], &accounts[..1]), &[], &accounts[..1]), None);
}

#[test]
fn ids_of_one_moment_stand_together_and_are_never_mixed_up() {
    let digest = |scope, kind, id: &str| Reference::new(scope, kind, id.as_bytes()).digest;
    let id = "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b";
    let next = "msg_67ccd2bf3d2c8190a7d1b7d1a1c1c1c1c1c1c1c1c1c1c1c1";
    assert_eq!(digest("s", Response, id)[..4], [0x67, 0xcc, 0xd2, 0xbe]);
    assert_eq!(digest("s", Item, next)[..4], [0x67, 0xcc, 0xd2, 0xbf]);
    assert_ne!(digest("s", Response, id), digest("t", Response, id));
    // An id is the same wherever the request has it.
    assert_eq!(digest("s", Response, id), digest("s", Path, id));
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

#[test]
fn an_id_is_found_in_every_scope_at_once() {
    for id in ["resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b4", "resp_1"] {
        let [first, last] = Reference::new("a", Response, id.as_bytes()).in_any_scope();
        for scope in ["a", "b", ""] {
            let digest = Reference::new(scope, File, id.as_bytes()).digest;
            assert!(first <= digest && digest <= last);
        }
        let other = Reference::new("a", Response, b"resp_2").digest;
        assert!(other < first || last < other);
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
    assert_eq!(conversation(&[found(File, Some(5))], false), None);
    assert_eq!(conversation(&all(Some(1), Some(2), Some(3)), false), id(1));
    assert_eq!(conversation(&all(None, Some(2), Some(3)), true), id(3));
    assert_eq!(conversation(&all(None, Some(2), Some(3)), false), None);
}

#[test]
fn a_reference_is_another_in_another_scope_or_space() {
    let base = Reference::new("a", Response, b"x").digest;
    for other in [
        Reference::new("b", Response, b"x"),
        Reference::new("a", Session, b"x"),
        Reference::new("a", Response, b"y"),
        Reference::new("ap", Response, b"x"),
    ] {
        assert_ne!(base, other.digest);
    }
}
