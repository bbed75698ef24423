//! The prompt cache of one simulated account.
//!
//! As the Responses API's guide describes it: the longest prefix that an earlier request had, at
//! least 1,024 tokens, in steps of 128; never shared by accounts. A `prompt_cache_key` steers
//! requests to the machine that holds the prefix: without one, half of it is found here.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Tokens are counted by length: four bytes each.
pub(super) const BYTES_PER_TOKEN: usize = 4;

const BLOCK_TOKENS: usize = 128;
const MINIMUM_TOKENS: usize = 1024;

/// Blocks that are kept: some 80 MB of text; the oldest go.
const BLOCKS_MAX: usize = 160_000;

/// Which prefixes were seen, as a chain of hashes over blocks.
#[derive(Debug, Default)]
pub(super) struct PromptCache {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

/// What the cache did for one request, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) read: usize,
    pub(super) written: usize,
}

impl PromptCache {
    /// Looks a context up, and remembers it.
    pub(super) fn pass(&mut self, key: Option<&str>, context: &[u8]) -> Cached {
        let mut hash = 0_u64;
        let mut hits = 0;
        let mut misses = 0;
        for block in context.chunks_exact(BLOCK_TOKENS * BYTES_PER_TOKEN) {
            let mut hasher = DefaultHasher::new();
            (hash, key, block).hash(&mut hasher);
            hash = hasher.finish();
            if self.known.contains(&hash) {
                hits += 1;
            } else {
                misses += 1;
                self.remember(hash);
            }
        }
        let found = match key {
            Some(_) => hits,
            None => hits / 2,
        } * BLOCK_TOKENS;
        let total = context.len().div_ceil(BYTES_PER_TOKEN);
        // The end of the input is never from the cache.
        let read = if found < MINIMUM_TOKENS {
            0
        } else {
            found.min(total.saturating_sub(1) / BLOCK_TOKENS * BLOCK_TOKENS)
        };
        let written = if total < MINIMUM_TOKENS {
            0
        } else {
            misses * BLOCK_TOKENS
        };
        Cached { read, written }
    }

    fn remember(&mut self, hash: u64) {
        if self.order.len() >= BLOCKS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(hash);
        self.order.push_back(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of so many tokens in which no block is like another.
    fn text(tokens: usize) -> Vec<u8> {
        (0..tokens)
            .flat_map(|n| format!("{n:4}").into_bytes().into_iter().take(4))
            .collect()
    }

    #[test]
    fn a_prefix_is_found_again_in_steps_under_the_same_key() {
        let mut cache = PromptCache::default();
        assert_eq!(cache.pass(Some("k"), &text(4000)).read, 0);
        assert_eq!(cache.pass(Some("k"), &text(4100)).read, 3968);
        assert_eq!(cache.pass(Some("other"), &text(4100)).read, 0);
    }

    #[test]
    fn a_short_prefix_is_not_cached() {
        let mut cache = PromptCache::default();
        cache.pass(Some("k"), &text(1000));
        assert_eq!(cache.pass(Some("k"), &text(1000)).read, 0);
    }

    #[test]
    fn without_a_key_less_is_found() {
        let mut cache = PromptCache::default();
        cache.pass(None, &text(4000));
        assert_eq!(cache.pass(None, &text(4000)).read, 1920);
    }
}
