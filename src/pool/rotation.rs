//! Whose turn it is, of those accounts that could serve.

use std::cmp::Ordering;

use serde::Deserialize;

/// How accounts take turns. Whatever the way, those of a higher priority come before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// The one with the least load for its weight; of those, the one that lags behind its share.
    #[default]
    LeastLoaded,
    /// The one that lags behind its share, whatever runs on it.
    RoundRobin,
    /// The first that has room, in the order in which they were added.
    FillFirst,
}

/// One lease at weight 1, in virtual time.
pub(super) const STRIDE: u64 = 1 << 20;

/// What counts of an account when it is compared.
///
/// Its virtual time rises by a step with every lease, by less the more weight it has. Of two
/// accounts the one whose time is behind has had less than its share: so ties rotate, and no herd
/// forms on the first account after a restart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) position: usize,
    pub(super) priority: i32,
    pub(super) weight: u32,
    pub(super) in_flight: u32,
    pub(super) virtual_time: u64,
}

impl Rotation {
    /// Which of two comes first: the lesser.
    pub(super) fn compare(self, a: &Turn, b: &Turn) -> Ordering {
        let by_priority = b.priority.cmp(&a.priority);
        let by_share = a.virtual_time.cmp(&b.virtual_time);
        // in_flight / weight, without the division.
        let load = |a: &Turn, b: &Turn| u64::from(a.in_flight) * u64::from(b.weight);
        by_priority.then(match self {
            Rotation::LeastLoaded => load(a, b).cmp(&load(b, a)).then(by_share),
            Rotation::RoundRobin => by_share,
            Rotation::FillFirst => a.position.cmp(&b.position),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(position: usize, priority: i32, in_flight: u32, virtual_time: u64) -> Turn {
        Turn {
            position,
            priority,
            weight: 1,
            in_flight,
            virtual_time,
        }
    }

    #[test]
    fn each_way_has_its_own_first() {
        let idle_but_ahead = turn(1, 0, 0, 9);
        let busy_but_behind = turn(2, 0, 3, 1);
        let first_of_all = turn(0, 0, 8, 5);
        for (rotation, position) in [
            (Rotation::LeastLoaded, 1),
            (Rotation::RoundRobin, 2),
            (Rotation::FillFirst, 0),
        ] {
            let mut turns = [idle_but_ahead, busy_but_behind, first_of_all];
            turns.sort_by(|a, b| rotation.compare(a, b));
            assert_eq!(turns[0].position, position, "{rotation:?}");
            let preferred = turn(7, 1, 100, 100);
            assert_eq!(rotation.compare(&preferred, &turns[0]), Ordering::Less);
        }
    }
}
