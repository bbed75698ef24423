-- The sums of today, UTC.
SELECT
  coalesce(sum(requests), 0) AS requests,
  coalesce(sum(errors), 0) AS errors,
  sum(input_tokens) AS input_tokens,
  sum(cached_tokens) AS cached_tokens,
  round(100.0 * sum(cached_tokens) / sum(input_tokens_with_cache_figure), 1) AS cached_percent,
  sum(output_tokens) AS output_tokens
FROM usage_facts
WHERE at_ms >= unixepoch('now', 'start of day') * 1000
