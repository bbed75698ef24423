CREATE VIEW accounts_now AS
-- The accounts, what state each is in, what to do about it, and what it did today (UTC). A
-- conversation is live for four hours after its last turn.
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
    WHEN a.switch = 'off' THEN 'disabled'
    WHEN a.status IN ('expired', 'disabled') THEN a.status
    WHEN a.switch = 'draining' THEN 'draining'
    WHEN a.status IN ('cooling_down', 'exhausted') AND a.status_until_ms <= c.now_ms THEN 'active'
    ELSE a.status
  END AS status,
  -- A limit that is over is told no more.
  CASE
    WHEN a.status_until_ms > c.now_ms THEN strftime('%Y-%m-%dT%H:%M:%fZ', a.status_until_ms / 1000.0, 'unixepoch')
  END AS until,
  CASE
    WHEN a.switch <> 'on' AND a.switch_reason IS NOT NULL THEN a.switch_reason
    WHEN a.switch = 'off' THEN 'by the operator'
    WHEN a.status_until_ms IS NULL OR a.status_until_ms > c.now_ms THEN a.status_reason
  END AS reason,
  coalesce(l.conversations, 0) AS live_conversations,
  coalesce(t.requests, 0) AS requests_today,
  t.cached_percent AS cached_percent_today,
  -- The models that are limited now though the account is not.
  (SELECT group_concat(json_extract(m.value, '$.model') || ' until '
      || strftime('%Y-%m-%dT%H:%M:%SZ', json_extract(m.value, '$.until_ms') / 1000.0, 'unixepoch'), ', ')
    FROM json_each(a.limited_models) AS m
    WHERE json_extract(m.value, '$.until_ms') > c.now_ms) AS limited_models,
  CASE
    WHEN a.switch <> 'on' THEN 'moorage account enable ' || a.name
    WHEN a.status = 'expired' AND a.kind = 'codex' THEN 'codex login (into ' || a.auth_file || '); a gateway that runs sees it by itself'
    WHEN a.status = 'expired' AND a.source = 'file' THEN 'put a new key where moorage.toml says, then: moorage account enable ' || a.name
    WHEN a.status = 'expired' THEN 'give it a new key: moorage account add ' || a.name || ' …'
    WHEN a.status = 'disabled' THEN 'ask its provider, then: moorage account enable ' || a.name
    WHEN a.status = 'exhausted' AND a.status_until_ms > c.now_ms THEN 'wait, or add quota and then: moorage account enable ' || a.name
  END AS what_to_do
FROM accounts AS a, clock AS c
LEFT JOIN today AS t ON t.account_id = a.id
LEFT JOIN live AS l ON l.account_id = a.id
WHERE a.removed_at_ms IS NULL
ORDER BY a.name;
