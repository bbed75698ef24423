-- As walk_requests, over those only that did not go where they wanted.
SELECT
  r.id,
  (?3 IS NULL OR r.account_id = ?3)
  AND (?4 IS NULL OR r.client_key_id = ?4)
  AND (?5 IS NULL OR coalesce(r.model_served, r.model_asked) = ?5)
  AND (?6 IS NULL OR r.transport = ?6)
  AND (?7 IS NULL OR r.outcome = ?7)
  AND (?8 IS NULL OR r.affinity = ?8)
  AND (?9 IS NULL OR r.conversation_id = ?9)
  AND (?10 IS NULL OR instr(lower(coalesce(r.error_code, '')), lower(?10)) > 0) AS is_wanted
FROM requests AS r INDEXED BY requests_astray
WHERE r.id < ?1 AND r.id >= ?2 AND r.affinity <> 'none' AND r.affinity <> 'hit'
ORDER BY r.id DESC
