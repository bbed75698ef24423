-- The accounts, what state each is in, and what it did today (UTC). A
-- conversation is live for four hours after its last turn.
CREATE VIEW accounts_now AS
WITH
  clock AS (
    SELECT
      CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now_ms,
      unixepoch('now', 'start of day') * 1000 AS today_ms
  ),
  today AS (
    SELECT
      f.account_id,
      sum(f.requests) AS requests,
      round(100.0 * sum(f.cached_tokens) / sum(f.input_tokens_with_cache_figure), 1) AS cached_percent
    FROM usage_facts AS f
    WHERE f.at_ms >= (SELECT today_ms FROM clock)
    GROUP BY 1
  ),
  live AS (
    -- Ids begin at the time of the start, in 1024ths of a millisecond.
    SELECT r.account_id, count(DISTINCT r.conversation_id) AS conversations
    FROM requests AS r
    WHERE r.id >= (SELECT now_ms - 4 * 3600 * 1000 FROM clock) * 1024
    GROUP BY 1
  )
SELECT
  a.name AS account,
  a.kind,
  CASE
    WHEN a.status IN ('cooling_down', 'exhausted') AND a.status_until_ms <= c.now_ms THEN 'active'
    ELSE a.status
  END AS status,
  -- A limit that is over is told no more.
  CASE
    WHEN a.status_until_ms > c.now_ms THEN strftime('%Y-%m-%dT%H:%M:%fZ', a.status_until_ms / 1000.0, 'unixepoch')
  END AS until,
  CASE
    WHEN a.status_until_ms IS NULL OR a.status_until_ms > c.now_ms THEN a.status_reason
  END AS reason,
  coalesce(l.conversations, 0) AS live_conversations,
  coalesce(t.requests, 0) AS requests_today,
  t.cached_percent AS cached_percent_today
FROM accounts AS a, clock AS c
LEFT JOIN today AS t ON t.account_id = a.id
LEFT JOIN live AS l ON l.account_id = a.id
WHERE a.removed_at_ms IS NULL
ORDER BY a.name;
