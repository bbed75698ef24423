//! The planner as a table: every kind of reference with every state of its owner, and every pair of kinds.

use super::ReferenceKind::*;
use super::*;
use crate::account::{Credential, Kind, StateDomain, Switch};
use uuid::Uuid;

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

fn all(here: &[AccountView]) -> Accounts {
    Accounts {
        here: here.to_vec(),
        gone: [].into(),
    }
}

const ONE_SCOPE: Terms = Terms {
    one_scope: true,
    without_reasoning: false,
};

fn decide(found: &[Found], accounts: &[AccountView]) -> Plan {
    plan(found, &all(accounts), ONE_SCOPE)
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

const STATES: [State; 5] = [
    State::Usable,
    State::Limited,
    State::OutOfUse,
    State::Removed,
    State::Unknown,
];

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

const DOMAINS: [Domains; 3] = [Domains::Apart, Domains::Shared, Domains::One];

/// The owner is account 1, its sibling 2, the stranger 3.
fn arranged(state: State, domains: Domains) -> Accounts {
    let usability = match state {
        State::Limited => Usability::UsableAt(1),
        State::OutOfUse => Usability::Never,
        _ => Usability::Usable,
    };
    let owner = used(1, "home", usability);
    let (mut here, mut gone) = (Vec::new(), Vec::new());
    match state {
        State::Removed => gone.push(Gone {
            id: owner.id(),
            name: owner.account.name.clone(),
            state_domain: owner.account.state_domain.clone(),
        }),
        _ => here.push(owner),
    }
    if domains != Domains::Apart {
        here.push(account(2, "home"));
    }
    if domains != Domains::One {
        here.push(account(3, "elsewhere"));
    }
    Accounts {
        here,
        gone: gone.into(),
    }
}

/// Every kind, in every state of its owner, over every arrangement of domains: the decision that
/// the design names for it, and the reason that people read.
#[test]
fn every_reference_decides_as_its_kind_says_in_every_state_of_its_owner() {
    for kind in ReferenceKind::ALL {
        for state in STATES {
            for domains in DOMAINS {
                let case = format!("{kind:?} {state:?} {domains:?}");
                let accounts = arranged(state, domains);
                let owner = (state != State::Unknown).then_some(1);
                let found = [found(kind, owner)];
                let plan = plan(&found, &accounts, ONE_SCOPE);
                let expected = expected(kind, state, domains);
                assert_eq!(plan.decision, expected, "{case}");
                let decides = !matches!(plan.decision, Decision::Free);
                assert_eq!(plan.by, decides.then_some(kind), "{case}");
                assert_eq!(plan.is_known(), decides && state != State::Unknown, "{case}");
                assert_eq!(
                    short(&plan, &found, &accounts),
                    Some(reason(kind, state, &plan)),
                    "{case}"
                );
                assert_eq!(
                    verdicts(&plan, &accounts.here),
                    judged(&plan, &accounts),
                    "{case}"
                );
            }
        }
    }
}

fn expected(kind: ReferenceKind, state: State, domains: Domains) -> Decision {
    let home = match (domains, state) {
        (Domains::Apart, State::Removed) => ids(&[]),
        (Domains::Apart, _) => ids(&[1]),
        // Whoever shares its state has it still.
        (_, State::Removed) => ids(&[2]),
        _ => ids(&[1, 2]),
    };
    match (kind.strength(), state) {
        (Strength::Hard, State::Unknown) if !kind.must_be_known() => Decision::Free,
        (Strength::Hard, State::Unknown) if domains == Domains::One => Decision::Pinned(home),
        (Strength::Hard, State::Unknown) => Decision::Unknown(0),
        (_, State::Unknown) => Decision::Free,
        (Strength::Hard, _) if home.is_empty() => Decision::OwnerGone(AccountId(1)),
        // A hard reference waits, however long.
        (Strength::Hard, _) => Decision::Pinned(home),
        // Firm: as long as anybody who can read it comes back by itself.
        (Strength::Firm, State::OutOfUse) if domains == Domains::Apart => Decision::Free,
        (Strength::Firm, _) if home.is_empty() => Decision::Free,
        (Strength::Firm, _) => Decision::Pinned(home),
        (Strength::Soft, State::OutOfUse | State::Removed) => Decision::Free,
        (Strength::Soft, _) => Decision::Preferred(AccountId(1)),
    }
}

fn reason(kind: ReferenceKind, state: State, plan: &Plan) -> String {
    let kind = kind.as_str();
    let told = match state {
        State::Usable => format!("{kind}->account-1"),
        State::Limited => format!("{kind}->account-1; account-1 limited"),
        State::OutOfUse => format!("{kind}->account-1; account-1 out of use"),
        State::Removed => format!("{kind}->account-1 (removed)"),
        State::Unknown => format!("{kind}->unknown"),
    };
    match plan.strip {
        Strip::Nothing => told,
        _ => told + "; stripped=reasoning",
    }
}

fn judged(plan: &Plan, accounts: &Accounts) -> Vec<Verdict> {
    let of = |account: &AccountView| match &plan.decision {
        Decision::Free => Verdict::May,
        Decision::Preferred(home) if *home == account.id() => Verdict::Warm,
        Decision::Preferred(_) => Verdict::InReserve,
        Decision::Pinned(_) if !plan.is_known() => Verdict::May,
        Decision::Pinned(_) if account.id() == AccountId(1) => Verdict::Holds,
        Decision::Pinned(_) if account.id() == AccountId(2) => Verdict::Shares,
        _ => Verdict::HoldsNothing,
    };
    accounts.here.iter().map(of).collect()
}

/// Every pair of kinds, with the first in every state of its owner over every arrangement: which of
/// the two decides, or that they disagree. The second belongs to the stranger, or where there is
/// none to the sibling.
#[test]
fn of_two_references_the_first_that_is_known_decides_and_hard_ones_must_agree() {
    for (index, first) in ReferenceKind::ALL.into_iter().enumerate() {
        for second in ReferenceKind::ALL.into_iter().skip(index) {
            for state in STATES {
                for domains in DOMAINS {
                    let accounts = arranged(state, domains);
                    let owner = (state != State::Unknown).then_some(1);
                    let other = if domains == Domains::One { 2 } else { 3 };
                    let found = [found(first, owner), found(second, Some(other))];
                    let plan = plan(&found, &accounts, ONE_SCOPE);
                    let (decision, by) = expected_of_two(first, second, state, domains);
                    assert_eq!(
                        (plan.decision, plan.by),
                        (decision, by),
                        "{first:?} {second:?} {state:?} {domains:?}"
                    );
                }
            }
        }
    }
}

fn expected_of_two(
    first: ReferenceKind,
    second: ReferenceKind,
    state: State,
    domains: Domains,
) -> (Decision, Option<ReferenceKind>) {
    use Strength::*;
    let alone = expected(first, state, domains);
    let stays = alone.clone();
    let decides = stays != Decision::Free;
    let of_first = (alone, decides.then_some(first));
    let is_known = state != State::Unknown;
    let of_second = match (second.strength(), domains, state) {
        (Soft, Domains::One, _) => Decision::Preferred(AccountId(2)),
        (Soft, ..) => Decision::Preferred(AccountId(3)),
        (_, Domains::One, State::Removed) => Decision::Pinned(ids(&[2])),
        (_, Domains::One, _) => Decision::Pinned(ids(&[2, 1])),
        _ => Decision::Pinned(ids(&[3])),
    };
    let of_second = (of_second, Some(second));
    match (first.strength(), second.strength()) {
        (Hard, Hard) if is_known && domains != Domains::One => (Decision::Conflict(0, 1), Some(first)),
        (Hard, _) if is_known => of_first,
        (_, Hard) => of_second,
        (Hard, _) if first.must_be_known() => of_first,
        // The newest reasoning decides, or all is given up.
        (Firm, Firm) if is_known => of_first,
        _ if decides => of_first,
        _ => of_second,
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
    let one = all(&[account(1, "a")]);
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
        &all(&accounts),
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
    let pointers = [
        found(Item, Some(1)),
        found(Item, Some(1)),
        found(Session, Some(2)),
        found(Prefix, None),
    ];
    let plan = decide(&pointers, &accounts);
    let line = short(&plan, &pointers, &all(&accounts)).unwrap();
    assert_eq!(
        line,
        "item_reference->account-1; session->account-2; prefix->unknown; account-2 limited; account-3 out of use"
    );
    let words = verdicts(&plan, &accounts);
    assert_eq!(
        words,
        [Verdict::Holds, Verdict::HoldsNothing, Verdict::HoldsNothing]
    );
    assert_eq!(
        short(&decide(&[], &accounts[..1]), &[], &all(&accounts[..1])),
        None
    );
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
