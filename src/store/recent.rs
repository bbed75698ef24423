//! The references written last, in front of SQLite.
//!
//! It can never be wrong: only the writer puts something in, after the commit, and this gateway is
//! the only one that writes references (see the lock in [`super::Store::open`]). What could not be
//! written yet is kept here until it is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::affinity::Owner;
use crate::limits;

type Digest = [u8; 16];

/// Two generations: when the younger is full it becomes the older, whose content is dropped.
#[derive(Debug, Default)]
pub(super) struct Recent {
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    younger: HashMap<Digest, Owner>,
    older: HashMap<Digest, Owner>,
    unwritten: HashMap<Digest, Owner>,
}

impl Recent {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        // A map is whole between any two of the calls below, whatever panicked in between.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Owner> {
        let maps = self.maps();
        let generations = [&maps.unwritten, &maps.younger, &maps.older];
        generations.into_iter().find_map(|map| map.get(digest)).copied()
    }

    /// Whether a digest between these two is known and not written yet.
    pub(super) fn knows_unwritten(&self, first: &Digest, last: &Digest) -> bool {
        let between = |digest: &Digest| first <= digest && digest <= last;
        self.maps().unwritten.keys().any(between)
    }

    /// After the commit.
    pub(super) fn written<'a>(&self, remembered: impl Iterator<Item = (&'a Digest, &'a Owner)>) {
        let mut maps = self.maps();
        for (digest, owner) in remembered {
            if maps.younger.len() >= limits::RECENT_REFERENCES_MAX / 2 {
                maps.older = std::mem::take(&mut maps.younger);
            }
            maps.younger.insert(*digest, *owner);
            if maps.unwritten.get(digest) == Some(owner) {
                maps.unwritten.remove(digest);
            }
        }
    }

    /// While the database cannot be written.
    pub(super) fn unwritten<'a>(&self, remembered: impl Iterator<Item = (&'a Digest, &'a Owner)>) {
        let mut maps = self.maps();
        for (digest, owner) in remembered {
            maps.unwritten.insert(*digest, *owner);
        }
    }

    /// What will never be written.
    pub(super) fn lost<'a>(&self, remembered: impl Iterator<Item = (&'a Digest, &'a Owner)>) {
        let mut maps = self.maps();
        for (digest, owner) in remembered {
            if maps.unwritten.get(digest) == Some(owner) {
                maps.unwritten.remove(digest);
            }
        }
    }

    pub(super) fn forget(&self, digest: &Digest) {
        let mut maps = self.maps();
        maps.younger.remove(digest);
        maps.older.remove(digest);
        maps.unwritten.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountId;
    use crate::affinity::ConversationId;

    fn owner(account: i64) -> Owner {
        Owner {
            account: AccountId(account),
            conversation: ConversationId(uuid::Uuid::nil()),
            expires_at_ms: 0,
            detour_since_ms: None,
            connection: None,
        }
    }

    fn digest(n: usize) -> Digest {
        (n as u128).to_le_bytes()
    }

    #[test]
    fn what_is_written_last_wins_and_what_is_old_goes() {
        let recent = Recent::default();
        recent.written([(&digest(0), &owner(1))].into_iter());
        recent.written([(&digest(0), &owner(2))].into_iter());
        assert_eq!(recent.get(&digest(0)), Some(owner(2)));
        for n in 1..=limits::RECENT_REFERENCES_MAX {
            recent.written([(&digest(n), &owner(1))].into_iter());
        }
        assert_eq!(recent.get(&digest(0)), None);
        assert!(recent.get(&digest(limits::RECENT_REFERENCES_MAX)).is_some());
    }

    #[test]
    fn what_is_not_written_yet_is_found_until_it_is() {
        let recent = Recent::default();
        recent.unwritten([(&digest(1), &owner(1))].into_iter());
        assert_eq!(recent.get(&digest(1)), Some(owner(1)));
        recent.written([(&digest(1), &owner(1))].into_iter());
        recent.forget(&digest(1));
        assert_eq!(recent.get(&digest(1)), None);
    }
}
