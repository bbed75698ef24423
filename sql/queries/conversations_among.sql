-- The conversations with the ids of the JSON array ?1, the latest first; columns as in the view
-- conversations, which has no index for a list of them.
WITH steps AS (
  SELECT
    r.*,
    lag(r.account_id) OVER (PARTITION BY r.conversation_id ORDER BY r.id) AS account_before,
    first_value(r.account_id) OVER (PARTITION BY r.conversation_id ORDER BY r.id DESC) AS account_now,
    first_value(r.client_key_id) OVER (PARTITION BY r.conversation_id ORDER BY r.id) AS opened_by
  FROM json_each(?1) AS wanted
  CROSS JOIN requests AS r INDEXED BY requests_by_conversation ON r.conversation_id = wanted.value
)
SELECT
  s.conversation_id,
  k.name AS client_key,
  a.name AS account,
  coalesce(max(s.model_served), max(s.model_asked)) AS model,
  count(*) AS turns,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(s.started_at_ms) / 1000.0, 'unixepoch') AS started_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(s.started_at_ms) / 1000.0, 'unixepoch') AS last_at,
  sum(s.outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued', 'open')) AS errors,
  sum(s.input_tokens) AS input_tokens,
  sum(s.cached_tokens) AS cached_tokens,
  round(100.0 * sum(s.cached_tokens) / sum(CASE WHEN s.cached_tokens IS NOT NULL THEN s.input_tokens END), 1) AS cached_percent,
  sum(s.output_tokens) AS output_tokens,
  sum(s.cost_micros) / 1e6 AS cost,
  sum(s.saved_micros) / 1e6 AS cost_saved,
  sum(s.lost_tokens) AS lost_tokens,
  sum(s.lost_micros) / 1e6 AS cost_lost,
  sum(s.account_before IS NOT NULL AND s.account_before <> s.account_id) AS moves
FROM steps AS s
LEFT JOIN client_keys AS k ON k.id = s.opened_by
LEFT JOIN accounts AS a ON a.id = s.account_now
GROUP BY s.conversation_id
ORDER BY max(s.id) DESC
