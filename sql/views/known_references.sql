CREATE VIEW known_references AS
-- What a request can point with, as the digest of scope, kind and value, and the
-- account it points at: what was learnt last, and what has settled. Where
-- connection is not NULL, only the connection of that identity knows the
-- response, and only while it lasts.
WITH recent AS (
  SELECT digest, account_id, conversation, expires_at_ms, detour_since_ms, connection, max(number) AS number
  FROM recent_references
  GROUP BY digest
)
SELECT digest, account_id, conversation, expires_at_ms, detour_since_ms, connection FROM recent
UNION ALL
SELECT s.digest, s.account_id, s.conversation, s.expires_at_ms, s.detour_since_ms, s.connection
FROM settled_references AS s
WHERE NOT EXISTS (SELECT 1 FROM recent_references AS r WHERE r.digest = s.digest);
