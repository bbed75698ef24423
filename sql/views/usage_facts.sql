CREATE VIEW usage_facts AS
-- What the usage_by_* views add up: the hourly sums, and the rows that are not
-- in them yet. A request that still runs is counted when it has ended.
SELECT
  h.hour_ms AS at_ms,
  nullif(h.account_id, 0) AS account_id,
  nullif(h.client_key_id, 0) AS client_key_id,
  h.model,
  h.transport,
  h.requests,
  h.errors,
  h.without_usage,
  h.without_price,
  h.moves,
  h.input_tokens,
  h.input_tokens_with_cache_figure,
  h.cached_tokens,
  h.cache_write_tokens,
  h.output_tokens,
  h.reasoning_tokens,
  h.cost_micros,
  h.saved_micros,
  h.lost_tokens,
  h.lost_micros
FROM usage_hours AS h
UNION ALL
SELECT
  r.started_at_ms,
  r.account_id,
  r.client_key_id,
  coalesce(r.model_served, r.model_asked, ''),
  r.transport,
  1,
  r.outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued'),
  r.input_tokens IS NULL,
  r.input_tokens IS NOT NULL AND r.cost_micros IS NULL,
  r.affinity = 'moved',
  r.input_tokens,
  CASE WHEN r.cached_tokens IS NOT NULL THEN r.input_tokens END,
  r.cached_tokens,
  r.cache_write_tokens,
  r.output_tokens,
  r.reasoning_tokens,
  r.cost_micros,
  r.saved_micros,
  r.lost_tokens,
  r.lost_micros
FROM requests AS r
WHERE r.id >= (SELECT folded_below_id FROM usage_fold) AND r.outcome <> 'open';
