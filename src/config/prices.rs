//! The price table of the file.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::price::Price;

/// What a million tokens of a model cost, from a day on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSettings {
    model: String,
    /// `2026-10-01`; the price holds from the begin of that day, UTC.
    from: String,
    /// Without, the standard tier.
    #[serde(default)]
    service_tier: String,
    input: f64,
    /// Without, as other input.
    cached_input: Option<f64>,
    /// Without, as other input.
    cache_write: Option<f64>,
    output: f64,
}

impl PriceSettings {
    /// The price as rows use it.
    ///
    /// # Errors
    /// What cannot be right.
    pub fn checked(&self) -> Result<Price, String> {
        let wrong = |what: &str| format!("price of '{}': {what}", self.model);
        let beginning = self.model.strip_suffix('*').unwrap_or(&self.model);
        if beginning.is_empty() || beginning.contains('*') {
            return Err(wrong("model is a name, or how names begin with one * at the end"));
        }
        let day: Date = self.from.parse().map_err(|_| {
            wrong(&format!(
                "from = '{}' is no day; write for example 2026-10-01",
                self.from
            ))
        })?;
        let valid_from = day
            .to_zoned(TimeZone::UTC)
            .map_err(|error| wrong(&error.to_string()))?;
        let micros = |amount: f64, what: &str| match amount {
            // A thousand a token is beyond any price, and far from what an integer can hold.
            amount if (0.0..=1e9).contains(&amount) => Ok((amount * 1e6).round() as i64),
            _ => Err(wrong(&format!(
                "{what} = {amount} is no price for a million tokens"
            ))),
        };
        Ok(Price {
            id: 0,
            model: self.model.clone(),
            service_tier: self.service_tier.clone(),
            valid_from_ms: valid_from.timestamp().as_millisecond(),
            input_micros: micros(self.input, "input")?,
            cached_micros: micros(self.cached_input.unwrap_or(self.input), "cached_input")?,
            cache_write_micros: micros(self.cache_write.unwrap_or(self.input), "cache_write")?,
            output_micros: micros(self.output, "output")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Price, String> {
        toml::from_str::<PriceSettings>(text)
            .map_err(|error| error.to_string())?
            .checked()
    }

    #[test]
    fn prices_are_for_a_million_tokens_and_hold_from_a_day_on() {
        let price = read(
            "model = \"gpt-5*\"\nfrom = \"2025-08-07\"\ninput = 1.25\ncached_input = 0.125\noutput = 10",
        )
        .unwrap();
        assert_eq!(price.valid_from_ms, 1_754_524_800_000);
        assert_eq!(
            (
                price.input_micros,
                price.cached_micros,
                price.cache_write_micros,
                price.output_micros
            ),
            (1_250_000, 125_000, 1_250_000, 10_000_000)
        );
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for (text, word) in [
            (
                "model = \"*\"\nfrom = \"2025-08-07\"\ninput = 1\noutput = 1",
                "model",
            ),
            ("model = \"m\"\nfrom = \"soon\"\ninput = 1\noutput = 1", "no day"),
            (
                "model = \"m\"\nfrom = \"2025-08-07\"\ninput = -1\noutput = 1",
                "input",
            ),
            (
                "model = \"m\"\nfrom = \"2025-08-07\"\ninput = 1\noutput = nan",
                "output",
            ),
            (
                "model = \"m\"\nfrom = \"2025-08-07\"\ninput = 1\noutput = 1\nfree = 2",
                "free",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
