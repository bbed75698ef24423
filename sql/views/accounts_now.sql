-- The accounts, what state each is in, and what it did today (UTC). A
-- conversation is live for four hours after its last turn.
CREATE VIEW accounts_now AS
SELECT
  a.name AS account,
  a.kind,
  CASE
    WHEN a.status IN ('cooling_down', 'exhausted') AND a.status_until_ms <= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) THEN 'active'
    ELSE a.status
  END AS status,
  -- A limit that is over is told no more.
  CASE
    WHEN a.status_until_ms > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) THEN strftime('%Y-%m-%dT%H:%M:%fZ', a.status_until_ms / 1000.0, 'unixepoch')
  END AS until,
  CASE
    WHEN a.status_until_ms IS NULL OR a.status_until_ms > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) THEN a.status_reason
  END AS reason,
  (SELECT count(DISTINCT r.conversation_id) FROM requests AS r
    WHERE r.account_id = a.id AND r.started_at_ms >= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - 4 * 3600 * 1000) AS live_conversations,
  (SELECT count(*) FROM requests AS r
    WHERE r.account_id = a.id AND r.started_at_ms >= unixepoch('now', 'start of day') * 1000) AS requests_today,
  (SELECT round(100.0 * sum(r.cached_tokens) / sum(r.input_tokens), 1) FROM requests AS r
    WHERE r.account_id = a.id AND r.cached_tokens IS NOT NULL
      AND r.started_at_ms >= unixepoch('now', 'start of day') * 1000) AS cached_percent_today
FROM accounts AS a
WHERE a.removed_at_ms IS NULL
ORDER BY a.name;
