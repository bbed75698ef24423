CREATE VIEW conversations AS
-- One line a conversation: its turns, where it lives now, what it cost, and how
-- often it changed its account (moves).
WITH steps AS (
  SELECT
    r.*,
    lag(r.account_id) OVER (PARTITION BY r.conversation_id ORDER BY r.id) AS account_before,
    first_value(r.account_id) OVER (PARTITION BY r.conversation_id ORDER BY r.id DESC) AS account_now,
    first_value(r.client_key_id) OVER (PARTITION BY r.conversation_id ORDER BY r.id) AS opened_by
  FROM requests AS r
  WHERE r.conversation_id IS NOT NULL AND r.account_id IS NOT NULL
)
SELECT
  s.conversation_id,
  k.name AS client_key,
  a.name AS account,
  count(*) AS turns,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(s.started_at_ms) / 1000.0, 'unixepoch') AS started_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(s.started_at_ms) / 1000.0, 'unixepoch') AS last_at,
  sum(s.input_tokens) AS input_tokens,
  sum(s.cached_tokens) AS cached_tokens,
  round(100.0 * sum(s.cached_tokens) / sum(CASE WHEN s.cached_tokens IS NOT NULL THEN s.input_tokens END), 1) AS cached_percent,
  sum(s.output_tokens) AS output_tokens,
  sum(s.cost_micros) / 1e6 AS cost,
  sum(s.saved_micros) / 1e6 AS cost_saved,
  sum(s.lost_micros) / 1e6 AS cost_lost,
  sum(s.account_before IS NOT NULL AND s.account_before <> s.account_id) AS moves
FROM steps AS s
LEFT JOIN client_keys AS k ON k.id = s.opened_by
LEFT JOIN accounts AS a ON a.id = s.account_now
GROUP BY s.conversation_id;
