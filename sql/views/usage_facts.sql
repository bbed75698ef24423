-- What the usage_by_* views add up: the rows there are, and the hourly sums of
-- rows that were swept. A request that still runs is counted when it has ended.
CREATE VIEW usage_facts AS
SELECT
  r.started_at_ms AS at_ms,
  r.account_id,
  r.client_key_id,
  coalesce(r.model_served, r.model_asked, '') AS model,
  1 AS requests,
  r.outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued') AS errors,
  r.input_tokens IS NULL AS without_usage,
  r.input_tokens,
  r.cached_tokens,
  CASE WHEN r.cached_tokens IS NOT NULL THEN r.input_tokens END AS input_tokens_with_cache_figure,
  r.output_tokens
FROM requests AS r
WHERE r.outcome <> 'open'
UNION ALL
SELECT
  h.hour_ms,
  nullif(h.account_id, 0),
  nullif(h.client_key_id, 0),
  h.model,
  h.requests,
  h.errors,
  h.without_usage,
  h.input_tokens,
  h.cached_tokens,
  CASE WHEN h.cached_tokens IS NOT NULL THEN h.input_tokens END,
  h.output_tokens
FROM usage_hours AS h;
