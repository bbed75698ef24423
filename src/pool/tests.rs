//! Whom the pool chooses, and who waits: each rule by an example.

use super::*;
use crate::account::{Credential, Kind, Secret, StateDomain};
use std::time::Duration;

fn known(id: i64, weight: u32, max_concurrent: Option<u32>) -> Known {
    Known {
        account: Account {
            id: AccountId(id),
            name: format!("account-{id}"),
            kind: Kind::OpenAi,
            base_url: String::new(),
            state_domain: StateDomain(id.to_string()),
            weight,
            priority: 0,
            max_concurrent,
            credential: Credential::Key(Secret::new("k").unwrap()),
            switch: Switch::On,
            revision: 0,
        },
        standing: Standing::active(),
        sequence: 0,
        quota: Quota::default(),
        rotation: 0,
    }
}

fn knowns(weights: &[u32], max_concurrent: Option<u32>) -> Vec<Known> {
    let ids = 1..;
    ids.zip(weights)
        .map(|(id, weight)| known(id, *weight, max_concurrent))
        .collect()
}

fn pool(weights: &[u32], max_concurrent: Option<u32>) -> Arc<Pool> {
    Pool::new(knowns(weights, max_concurrent), Vec::new(), Rotation::LeastLoaded)
}

fn wish<'a>(decision: &'a Decision, tried: &'a [AccountId]) -> Wish<'a> {
    Wish {
        without_model: &[],
        refused: &[],
        decision,
        tried,
        model: Some("m"),
        begins: true,
    }
}

fn lease(pool: &Arc<Pool>, decision: &Decision, now_ms: i64) -> Result<Lease, NoLease> {
    pool.lease(&wish(decision, &[]), None, now_ms)
}

fn id(lease: &Lease) -> i64 {
    lease.account().id.0
}

fn limit(pool: &Pool, account: i64, seconds: u64) {
    let signal = Signal::RateLimited {
        code: "x".into(),
        retry_after: Some(Duration::from_secs(seconds)),
        model: None,
    };
    pool.note(AccountId(account), &signal, 0);
}

#[test]
fn idle_accounts_take_turns_in_the_share_of_their_weights() {
    let pool = pool(&[1, 3], None);
    let mut counts = [0, 0];
    for _ in 0..40 {
        let held = lease(&pool, &Decision::Free, 0).unwrap();
        counts[id(&held) as usize - 1] += 1;
    }
    assert_eq!(counts, [10, 30]);
}

#[test]
fn the_least_loaded_is_chosen_and_a_dropped_lease_returns() {
    let pool = pool(&[1, 1], None);
    let first = lease(&pool, &Decision::Free, 0).unwrap();
    let second = lease(&pool, &Decision::Free, 0).unwrap();
    assert_ne!(id(&first), id(&second));
    let idle = id(&first);
    drop(first);
    assert_eq!(id(&lease(&pool, &Decision::Free, 0).unwrap()), idle);
}

#[test]
fn a_pin_is_never_given_up() {
    let pool = pool(&[1, 1], Some(1));
    let pin = Decision::Pinned(vec![AccountId(1)]);
    let held = pool.lease(&wish(&pin, &[AccountId(1)]), None, 0).unwrap();
    let account = Some("account-1".to_owned());
    assert_eq!(
        lease(&pool, &pin, 0).unwrap_err(),
        NoLease::Full {
            account: account.clone()
        }
    );
    drop(held);
    limit(&pool, 1, 5);
    assert_eq!(
        lease(&pool, &pin, 0).unwrap_err(),
        NoLease::CoolingDown {
            account,
            until_ms: 5000
        }
    );
    assert!(lease(&pool, &pin, 5000).is_ok());
}

#[test]
fn a_preference_yields_to_health_and_capacity() {
    let pool = pool(&[1, 1], Some(1));
    let preferred = Decision::Preferred(AccountId(2));
    let held = lease(&pool, &preferred, 0).unwrap();
    assert_eq!(id(&held), 2);
    assert_eq!(id(&lease(&pool, &preferred, 0).unwrap()), 1);
    drop(held);
    limit(&pool, 2, 5);
    assert_eq!(id(&lease(&pool, &preferred, 0).unwrap()), 1);
    assert_eq!(id(&lease(&pool, &preferred, 6000).unwrap()), 2);
}

#[test]
fn without_a_pin_no_account_is_tried_twice() {
    let pool = pool(&[1, 1], None);
    let tried = [AccountId(1)];
    assert_eq!(
        id(&pool.lease(&wish(&Decision::Free, &tried), None, 0).unwrap()),
        2
    );
    let tried = [AccountId(1), AccountId(2)];
    assert_eq!(
        pool.lease(&wish(&Decision::Free, &tried), None, 0).unwrap_err(),
        NoLease::Tried
    );
}

#[test]
fn when_all_are_limited_the_first_return_is_told() {
    let pool = pool(&[1, 1], None);
    limit(&pool, 1, 9);
    limit(&pool, 2, 4);
    let none = lease(&pool, &Decision::Free, 0).unwrap_err();
    assert_eq!(
        none,
        NoLease::CoolingDown {
            account: None,
            until_ms: 4000
        }
    );
}

#[test]
fn an_account_that_was_away_does_not_get_everything_at_once() {
    let pool = pool(&[1, 1], None);
    limit(&pool, 2, 10);
    for _ in 0..100 {
        lease(&pool, &Decision::Free, 0).unwrap();
    }
    let after: Vec<i64> = (0..4)
        .map(|_| id(&lease(&pool, &Decision::Free, 20_000).unwrap()))
        .collect();
    assert_eq!(after.iter().filter(|id| **id == 2).count(), 2, "{after:?}");
}

#[test]
fn one_models_limit_keeps_no_other_model_away() {
    let pool = pool(&[1], None);
    let signal = Signal::RateLimited {
        code: "x".into(),
        retry_after: Some(Duration::from_secs(5)),
        model: Some("m".into()),
    };
    let changed = pool.note(AccountId(1), &signal, 0).unwrap();
    assert_eq!((changed.sequence, changed.standing.limited_models.len()), (1, 1));
    assert!(matches!(
        lease(&pool, &Decision::Free, 0),
        Err(NoLease::CoolingDown { .. })
    ));
    let other = Wish {
        model: Some("n"),
        ..wish(&Decision::Free, &[])
    };
    assert!(pool.lease(&other, None, 0).is_ok());
    assert!(lease(&pool, &Decision::Free, 5000).is_ok());
}

#[test]
fn on_a_draining_account_what_lives_there_goes_on_and_nothing_begins() {
    let mut accounts = knowns(&[1, 1], None);
    accounts[0].account.switch = Switch::Draining;
    let pool = Pool::new(accounts, Vec::new(), Rotation::LeastLoaded);
    for _ in 0..4 {
        assert_eq!(id(&lease(&pool, &Decision::Free, 0).unwrap()), 2);
    }
    let preferred = Decision::Preferred(AccountId(1));
    assert_eq!(id(&lease(&pool, &preferred, 0).unwrap()), 2);
    let goes_on = Wish {
        begins: false,
        ..wish(&preferred, &[])
    };
    assert_eq!(id(&pool.lease(&goes_on, None, 0).unwrap()), 1);
    let pin = Decision::Pinned(vec![AccountId(1)]);
    assert_eq!(id(&lease(&pool, &pin, 0).unwrap()), 1);
    let detour = Decision::Preferred(AccountId(2));
    limit(&pool, 2, 5);
    let goes_on = Wish {
        begins: false,
        ..wish(&detour, &[])
    };
    assert!(pool.lease(&goes_on, None, 0).is_err());
}

#[test]
fn whoever_stands_in_line_is_not_overtaken() {
    let pool = pool(&[1], Some(1));
    let held = lease(&pool, &Decision::Free, 0).unwrap();
    let want = wish(&Decision::Free, &[]);
    let first = pool.stand_in_line(&want).unwrap();
    let second = pool.stand_in_line(&want).unwrap();
    drop(held);
    assert!(pool.lease(&want, None, 0).is_err(), "who came last");
    assert!(pool.lease(&want, Some(&second), 0).is_err());
    let held = pool.lease(&want, Some(&first), 0).unwrap();
    drop(first);
    drop(held);
    assert!(pool.lease(&want, None, 0).is_err());
    // Who gives up waiting is in nobody's way.
    drop(second);
    assert!(pool.lease(&want, None, 0).is_ok());
}

#[test]
fn the_line_is_bounded() {
    let pool = pool(&[1], Some(1));
    let want = wish(&Decision::Free, &[]);
    let tickets: Vec<_> = (0..limits::QUEUE_MAX)
        .map(|_| pool.stand_in_line(&want))
        .collect();
    assert!(tickets.iter().all(Option::is_some));
    assert!(pool.stand_in_line(&want).is_none());
}

#[test]
fn faults_in_a_row_keep_requests_away_for_a_moment_and_change_no_standing() {
    let pool = pool(&[1, 1], None);
    for _ in 0..limits::BREAKER_FAULTS {
        pool.fault(AccountId(1), 0);
    }
    for _ in 0..4 {
        assert_eq!(id(&lease(&pool, &Decision::Free, 0).unwrap()), 2);
    }
    let pin = Decision::Pinned(vec![AccountId(1)]);
    assert!(
        matches!(lease(&pool, &pin, 0), Err(NoLease::CoolingDown { until_ms, .. })
            if until_ms == limits::BREAKER_OPEN_MS)
    );
    // One request probes; the next waits for what it finds.
    let after = limits::BREAKER_OPEN_MS;
    let probe = lease(&pool, &pin, after).unwrap();
    assert!(lease(&pool, &pin, after).is_err());
    drop(probe);
    let _probe = lease(&pool, &pin, after).unwrap();
    pool.answered(AccountId(1));
    assert!(lease(&pool, &pin, after).is_ok());
}

#[test]
fn other_accounts_take_their_places_while_attempts_run() {
    let pool = pool(&[1, 1], Some(1));
    limit(&pool, 1, 50);
    let held = lease(&pool, &Decision::Free, 0).unwrap();
    assert_eq!(id(&held), 2);
    let mut accounts = knowns(&[1, 1, 1], Some(1));
    // A person has given the first another chance; the second is gone.
    accounts[0].account.revision = 1;
    accounts.remove(1);
    pool.replace(accounts, Vec::new());
    assert_eq!(pool.len(), 2);
    drop(held);
    let ids = [0, 0].map(|now| lease(&pool, &Decision::Free, now));
    let mut ids: Vec<i64> = ids.iter().map(|lease| id(lease.as_ref().unwrap())).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 3]);
}

#[test]
fn the_order_of_turns_is_kept_over_a_restart() {
    let first = pool(&[1, 1, 1], None);
    for _ in 0..2 {
        lease(&first, &Decision::Free, 0).unwrap();
    }
    let mut accounts = knowns(&[1, 1, 1], None);
    for saved in first.to_save() {
        let account = accounts
            .iter_mut()
            .find(|known| known.account.id == saved.account);
        account.unwrap().rotation = saved.rotation.unwrap();
    }
    assert!(first.to_save().is_empty());
    let second = Pool::new(accounts, Vec::new(), Rotation::LeastLoaded);
    assert_eq!(id(&lease(&second, &Decision::Free, 0).unwrap()), 3);
}
