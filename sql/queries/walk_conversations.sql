-- Walks back from before the id ?1 to ?2, and says of each request whether it is the last one of its
-- conversation, and wanted.
SELECT
  r.id,
  (?3 IS NULL OR r.account_id = ?3)
  AND (?4 IS NULL OR r.client_key_id = ?4)
  AND NOT EXISTS (SELECT 1 FROM requests AS later WHERE later.conversation_id = r.conversation_id AND later.id > r.id) AS is_wanted,
  r.conversation_id
FROM requests AS r
WHERE r.id < ?1 AND r.id >= ?2 AND r.conversation_id IS NOT NULL
ORDER BY r.id DESC
