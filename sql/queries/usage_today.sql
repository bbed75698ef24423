SELECT
  count(*) AS requests,
  coalesce(sum(outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued', 'open')), 0) AS errors,
  sum(input_tokens) AS input_tokens,
  sum(cached_tokens) AS cached_tokens,
  round(100.0 * sum(cached_tokens) / sum(CASE WHEN cached_tokens IS NOT NULL THEN input_tokens END), 1) AS cached_percent,
  sum(output_tokens) AS output_tokens
FROM requests
WHERE started_at_ms >= unixepoch('now', 'start of day') * 1000
