-- Sums of the time from ?1 to before ?2 (milliseconds), in steps of ?3 milliseconds, by what ?5 says.
-- Steps begin ?4 milliseconds before those of UTC, where the viewer's days begin. Steps of an hour and
-- more are made of the hourly sums and of the rows that are not in them yet; shorter ones of all rows.
-- ?6 and ?7 are the ids of requests where the time begins and ends.
WITH facts AS (
  SELECT
    h.hour_ms AS at_ms, nullif(h.account_id, 0) AS account_id, nullif(h.client_key_id, 0) AS client_key_id, h.model,
    h.transport, h.requests, h.errors, h.without_usage, h.without_price, h.moves, h.input_tokens,
    h.input_tokens_with_cache_figure, h.cached_tokens, h.cache_write_tokens, h.output_tokens, h.reasoning_tokens,
    h.cost_micros, h.saved_micros, h.lost_tokens, h.lost_micros
  FROM usage_hours AS h
  WHERE ?3 >= 3600000 AND h.hour_ms >= ?1 AND h.hour_ms < ?2
  UNION ALL
  SELECT
    r.started_at_ms, r.account_id, r.client_key_id, coalesce(r.model_served, r.model_asked, ''),
    r.transport, 1, r.outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued'), r.input_tokens IS NULL,
    r.input_tokens IS NOT NULL AND r.cost_micros IS NULL, r.affinity = 'moved', r.input_tokens,
    CASE WHEN r.cached_tokens IS NOT NULL THEN r.input_tokens END, r.cached_tokens, r.cache_write_tokens,
    r.output_tokens, r.reasoning_tokens, r.cost_micros, r.saved_micros, r.lost_tokens, r.lost_micros
  FROM requests AS r
  WHERE r.id >= iif(?3 >= 3600000, max(?6, (SELECT folded_below_id FROM usage_fold)), ?6) AND r.id < ?7
    AND r.outcome <> 'open'
),
cells AS (
  SELECT
    (f.at_ms + ?4) / ?3 * ?3 - ?4 AS at_ms,
    CASE ?5
      WHEN 'account' THEN f.account_id
      WHEN 'client_key' THEN f.client_key_id
      WHEN 'model' THEN nullif(f.model, '')
      WHEN 'transport' THEN nullif(f.transport, '')
    END AS part,
    sum(f.requests) AS requests,
    sum(f.errors) AS errors,
    sum(f.without_usage) AS without_usage,
    sum(f.without_price) AS without_price,
    sum(f.moves) AS moves,
    sum(f.input_tokens) AS input_tokens,
    sum(f.input_tokens_with_cache_figure) AS input_tokens_with_cache_figure,
    sum(f.cached_tokens) AS cached_tokens,
    sum(f.cache_write_tokens) AS cache_write_tokens,
    sum(f.output_tokens) AS output_tokens,
    sum(f.reasoning_tokens) AS reasoning_tokens,
    sum(f.cost_micros) AS cost_micros,
    sum(f.saved_micros) AS saved_micros,
    sum(f.lost_tokens) AS lost_tokens,
    sum(f.lost_micros) AS lost_micros
  FROM facts AS f
  GROUP BY 1, 2
)
SELECT
  c.at_ms,
  CASE ?5 WHEN 'account' THEN a.name WHEN 'client_key' THEN k.name ELSE c.part END,
  c.requests, c.errors, c.without_usage, c.without_price, c.moves, c.input_tokens,
  c.input_tokens_with_cache_figure, c.cached_tokens, c.cache_write_tokens, c.output_tokens,
  c.reasoning_tokens, c.cost_micros, c.saved_micros, c.lost_tokens, c.lost_micros
FROM cells AS c
LEFT JOIN accounts AS a ON ?5 = 'account' AND a.id = c.part
LEFT JOIN client_keys AS k ON ?5 = 'client_key' AND k.id = c.part
WHERE c.requests <> 0
ORDER BY c.at_ms
