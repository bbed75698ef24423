//! Every status with every signal, and what a standing allows when.

use super::*;

const NOW: i64 = 1_000_000;

fn limited(seconds: u64) -> Signal {
    Signal::RateLimited {
        code: "limit".into(),
        retry_after: Some(Duration::from_secs(seconds)),
        model: None,
    }
}

fn limited_model(model: &str, seconds: u64) -> Signal {
    Signal::RateLimited {
        code: "limit".into(),
        retry_after: Some(Duration::from_secs(seconds)),
        model: Some(model.into()),
    }
}

fn spent(seconds: Option<u64>) -> Signal {
    Signal::QuotaExhausted {
        code: "quota".into(),
        retry_after: seconds.map(Duration::from_secs),
    }
}

fn refused() -> Signal {
    Signal::CredentialRefused { code: "key".into() }
}

fn deactivated() -> Signal {
    Signal::Deactivated { code: "gone".into() }
}

fn with(status: Status) -> Standing {
    Standing {
        status,
        limited_models: Vec::new(),
    }
}

fn usable(standing: &Standing, now_ms: i64) -> Usability {
    standing.usability(Switch::On, Some("m"), now_ms)
}

#[test]
fn every_cell_of_the_table_is_as_it_says() {
    let active = || Status::Active;
    let cooling = |seconds: i64| Status::CoolingDown {
        until_ms: NOW + seconds * 1000,
        reason: "limit".into(),
    };
    let exhausted = |seconds: i64| Status::Exhausted {
        until_ms: NOW + seconds * 1000,
        reason: "quota".into(),
    };
    let expired = || Status::Expired { reason: "key".into() };
    let disabled = || Status::Disabled {
        reason: "by the upstream: gone".into(),
    };
    let signals = [
        Signal::Worked,
        limited(30),
        limited_model("m", 30),
        spent(Some(60)),
        refused(),
        deactivated(),
    ];
    // A row: the status before, and what each of the signals makes of it.
    let table = [
        (
            active(),
            [
                active(),
                cooling(30),
                active(),
                exhausted(60),
                expired(),
                disabled(),
            ],
        ),
        // Longer and shorter than the limit that comes; over already.
        (
            cooling(50),
            [
                cooling(50),
                cooling(50),
                cooling(50),
                exhausted(60),
                expired(),
                disabled(),
            ],
        ),
        (
            cooling(10),
            [
                cooling(10),
                cooling(30),
                cooling(10),
                exhausted(60),
                expired(),
                disabled(),
            ],
        ),
        (
            cooling(0),
            [
                active(),
                cooling(30),
                cooling(0),
                exhausted(60),
                expired(),
                disabled(),
            ],
        ),
        (
            exhausted(50),
            [
                exhausted(50),
                exhausted(50),
                exhausted(50),
                exhausted(60),
                expired(),
                disabled(),
            ],
        ),
        (
            exhausted(0),
            [
                active(),
                cooling(30),
                exhausted(0),
                exhausted(60),
                expired(),
                disabled(),
            ],
        ),
        (
            expired(),
            [active(), expired(), expired(), expired(), expired(), disabled()],
        ),
        (
            disabled(),
            [
                disabled(),
                disabled(),
                disabled(),
                disabled(),
                disabled(),
                disabled(),
            ],
        ),
    ];
    for (before, row) in table {
        for (signal, expected) in signals.iter().zip(row) {
            let after = with(before.clone()).after(signal, NOW);
            assert_eq!(after.status, expected, "{before:?} {signal:?}");
        }
    }
}

#[test]
fn the_switch_of_a_person_goes_before_what_the_upstream_says() {
    let limited = Standing::active().after(&limited(30), NOW);
    let expired = Standing::active().after(&refused(), NOW);
    let table = [
        (Switch::On, Standing::active(), "active", Usability::Usable),
        (
            Switch::On,
            limited.clone(),
            "cooling_down",
            Usability::UsableAt(NOW + 30_000),
        ),
        (Switch::On, expired.clone(), "expired", Usability::Never),
        (
            Switch::Draining,
            Standing::active(),
            "draining",
            Usability::Usable,
        ),
        (
            Switch::Draining,
            limited.clone(),
            "draining",
            Usability::UsableAt(NOW + 30_000),
        ),
        (Switch::Draining, expired.clone(), "expired", Usability::Never),
        (Switch::Off, Standing::active(), "disabled", Usability::Never),
        (Switch::Off, limited, "disabled", Usability::Never),
        (Switch::Off, expired, "disabled", Usability::Never),
    ];
    for (switch, standing, word, usability) in table {
        assert_eq!(standing.word(switch, NOW), word, "{switch:?} {standing:?}");
        assert_eq!(
            standing.usability(switch, None, NOW),
            usability,
            "{switch:?} {standing:?}"
        );
    }
}

#[test]
fn a_limit_without_a_time_ends_by_itself_and_an_absurd_one_is_bounded() {
    let unstated = Signal::RateLimited {
        code: "x".into(),
        retry_after: None,
        model: None,
    };
    for (signal, at_most_ms) in [
        (unstated, 3_600_000),
        (spent(None), 3_600_000),
        (limited(u64::MAX / 2000), 9 * 24 * 3_600_000),
        (limited_model("m", u64::MAX / 2000), 9 * 24 * 3_600_000),
    ] {
        let standing = Standing::active().after(&signal, NOW);
        let Usability::UsableAt(at) = usable(&standing, NOW) else {
            panic!("{standing:?} must end");
        };
        assert!(at > NOW && at <= NOW + at_most_ms, "{signal:?}");
    }
}

#[test]
fn a_limit_of_a_clock_that_was_put_right_is_over() {
    let year_ms = 365 * 24 * 3_600_000;
    let far = [limited(60), spent(Some(60)), limited_model("m", 60)];
    for signal in far {
        let before = Standing::active().after(&signal, NOW + year_ms);
        assert_eq!(before.usability(Switch::On, Some("m"), NOW), Usability::Usable);
        let worked = before.after(&Signal::Worked, NOW);
        assert_eq!(worked, Standing::active(), "{signal:?}");
        let again = before.after(&limited(60), NOW);
        assert_eq!(
            usable(&again, NOW),
            Usability::UsableAt(NOW + 60_000),
            "{signal:?}"
        );
    }
}

#[test]
fn a_limited_model_keeps_no_other_away() {
    let standing = Standing::active()
        .after(&limited_model("m", 30), NOW)
        .after(&limited_model("m", 10), NOW);
    assert_eq!(usable(&standing, NOW), Usability::UsableAt(NOW + 30_000));
    assert_eq!(usable(&standing, NOW + 30_000), Usability::Usable);
    for other in [Some("n"), None] {
        assert_eq!(standing.usability(Switch::On, other, NOW), Usability::Usable);
    }
    // What is over is forgotten.
    let later = standing.after(&Signal::Worked, NOW + 31_000);
    assert_eq!(later, Standing::active());
}

#[test]
fn a_status_survives_its_columns() {
    for status in [
        Status::Active,
        Standing::active().after(&limited(30), NOW).status,
        Standing::active().after(&spent(None), NOW).status,
        Status::Expired { reason: "a".into() },
        Status::Disabled { reason: "b".into() },
    ] {
        let (word, until_ms, reason) = status.columns();
        let back = Status::from_columns(word, until_ms, reason.map(str::to_owned));
        assert_eq!(back, status);
    }
}
