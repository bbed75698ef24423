//! What tokens cost: the operator's price table, and what a request cost by it. No price is known
//! that the operator has not written down.

use crate::response::Usage;

/// A price that holds from a day on, for a model and a service tier. Amounts are millionths of the
/// currency for a million tokens: 1.25 a million tokens is 1 250 000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// Its row; 0 before it has one.
    pub id: i64,
    /// The model, or how its name begins with a `*` at the end.
    pub model: String,
    /// Empty for the standard tier.
    pub service_tier: String,
    /// In milliseconds since 1970 UTC.
    pub valid_from_ms: i64,
    /// Input that was not cached.
    pub input_micros: i64,
    /// Input from the prompt cache.
    pub cached_micros: i64,
    /// Input that was written to the prompt cache.
    pub cache_write_micros: i64,
    /// Output, reasoning included.
    pub output_micros: i64,
}

/// What a request cost, in millionths of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The price that was used.
    pub price_id: i64,
    /// The whole.
    pub cost_micros: i64,
    /// What the cached tokens would have cost more without the cache, if it is known how many they were.
    pub saved_micros: Option<i64>,
}

/// The price table.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    prices: Vec<Price>,
}

impl Prices {
    /// A table of these prices.
    pub fn new(mut prices: Vec<Price>) -> Prices {
        // Whole names first, then the longest beginnings; of one name the latest price first.
        prices.sort_by_key(|price| {
            let is_beginning = price.model.ends_with('*');
            (
                is_beginning,
                std::cmp::Reverse(price.model.len()),
                std::cmp::Reverse(price.valid_from_ms),
            )
        });
        Prices { prices }
    }

    /// The price of a model in a service tier at a time.
    pub fn find(&self, model: &str, service_tier: Option<&str>, at_ms: i64) -> Option<&Price> {
        let tier = match service_tier {
            None | Some("default" | "auto" | "standard") => "",
            Some(tier) => tier,
        };
        self.prices
            .iter()
            .find(|price| price.names(model) && price.service_tier == tier && price.valid_from_ms <= at_ms)
    }
}

impl Price {
    fn names(&self, model: &str) -> bool {
        match self.model.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => self.model == model,
        }
    }

    /// What a request with these figures cost. Nothing is known without the tokens of input and
    /// output; an upstream that does not speak of its cache is taken to have none.
    pub fn cost(&self, usage: &Usage) -> Option<Cost> {
        let input = usage.input?;
        let output = usage.output?;
        let cached = usage.cached.unwrap_or(0).clamp(0, input.max(0));
        let written = usage.cache_write.unwrap_or(0).clamp(0, input.max(0) - cached);
        let parts = [
            (input - cached - written, self.input_micros),
            (cached, self.cached_micros),
            (written, self.cache_write_micros),
            (output, self.output_micros),
        ];
        Some(Cost {
            price_id: self.id,
            cost_micros: micros(parts)?,
            saved_micros: match usage.cached {
                Some(_) => micros([(cached, self.input_micros - self.cached_micros)]),
                None => None,
            },
        })
    }
}

/// Tokens times the price for a million of them, rounded once.
fn micros<const N: usize>(parts: [(i64, i64); N]) -> Option<i64> {
    const MILLION: i128 = 1_000_000;
    let whole: i128 = parts
        .into_iter()
        .map(|(tokens, price)| i128::from(tokens) * i128::from(price))
        .sum();
    i64::try_from((whole + MILLION / 2).div_euclid(MILLION)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(model: &str, service_tier: &str, valid_from_ms: i64) -> Price {
        Price {
            id: valid_from_ms + 1,
            model: model.to_owned(),
            service_tier: service_tier.to_owned(),
            valid_from_ms,
            input_micros: 1_250_000,
            cached_micros: 125_000,
            cache_write_micros: 1_250_000,
            output_micros: 10_000_000,
        }
    }

    #[test]
    fn a_price_is_found_by_the_nearest_name_the_tier_and_the_day() {
        let prices = Prices::new(vec![
            price("gpt-5*", "", 0),
            price("gpt-5.6", "", 100),
            price("gpt-5.6", "", 200),
            price("gpt-5.6*", "priority", 0),
        ]);
        let find = |model, tier, at| {
            prices
                .find(model, tier, at)
                .map(|found| (found.model.as_str(), found.valid_from_ms))
        };
        assert_eq!(find("gpt-5.6", None, 250), Some(("gpt-5.6", 200)));
        assert_eq!(find("gpt-5.6", Some("default"), 150), Some(("gpt-5.6", 100)));
        assert_eq!(find("gpt-5.6", None, 50), Some(("gpt-5*", 0)));
        assert_eq!(
            find("gpt-5.6-2026-10-01", Some("priority"), 250),
            Some(("gpt-5.6*", 0))
        );
        // A tier with no price of its own has none: the standard price would be a guess.
        assert_eq!(find("gpt-5.6", Some("flex"), 250), None);
        assert_eq!(find("o9", None, 250), None);
    }

    #[test]
    fn what_a_request_cost_is_rounded_once_and_unknown_where_figures_are() {
        let usage = Usage {
            input: Some(4000),
            cached: Some(3840),
            cache_write: Some(0),
            output: Some(1519),
            reasoning: None,
        };
        let cost = price("m", "", 0).cost(&usage).unwrap();
        // 160 * 1.25 + 3840 * 0.125 + 1519 * 10 = 200 + 480 + 15190.
        assert_eq!(cost.cost_micros, 15_870);
        assert_eq!(cost.saved_micros, Some(4320));
        let no_cache = Usage {
            cached: None,
            ..usage
        };
        assert_eq!(price("m", "", 0).cost(&no_cache).unwrap().saved_micros, None);
        assert_eq!(
            price("m", "", 0).cost(&Usage {
                output: None,
                ..usage
            }),
            None
        );
    }
}
