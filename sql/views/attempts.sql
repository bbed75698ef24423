CREATE VIEW attempts AS
-- One line an attempt: each account that was asked for a request, in their order, and what came of it.
-- how is refused, not_sent, unanswered or timeout where the attempt failed before anything of it
-- reached the client, and answered for the one whose answer was passed on.
SELECT
  r.id AS request_id,
  e.key + 1 AS attempt,
  a.name AS account,
  strftime('%Y-%m-%dT%H:%M:%fZ', (r.started_at_ms + json_extract(e.value, '$.after_ms')) / 1000.0, 'unixepoch') AS started_at,
  -- From the start of the request.
  json_extract(e.value, '$.after_ms') AS after_ms,
  coalesce(json_extract(e.value, '$.duration_ms'), r.duration_ms - json_extract(e.value, '$.after_ms')) AS duration_ms,
  coalesce(json_extract(e.value, '$.how'), iif(r.ended_at_ms IS NOT NULL, 'answered', NULL)) AS how,
  -- The upstream's; for the last one that of the answer.
  iif(json_extract(e.value, '$.how') IS NULL, r.status, json_extract(e.value, '$.status')) AS status,
  iif(json_extract(e.value, '$.how') IS NULL, r.error_code, json_extract(e.value, '$.error_code')) AS error_code
FROM requests AS r, json_each(r.each_attempt) AS e
LEFT JOIN accounts AS a ON a.id = json_extract(e.value, '$.account_id')
UNION ALL
-- A single attempt that did not fail: the row tells all of it.
SELECT
  r.id, 1, a.name, strftime('%Y-%m-%dT%H:%M:%fZ', r.started_at_ms / 1000.0, 'unixepoch'), 0, r.duration_ms,
  iif(r.ended_at_ms IS NOT NULL, 'answered', NULL), r.status, r.error_code
FROM requests AS r
LEFT JOIN accounts AS a ON a.id = r.account_id
WHERE r.each_attempt IS NULL AND r.attempts = 1;
