-- The last hour up to ?1 and not before ?2 in which there are wanted requests.
SELECT hour_ms FROM usage_hours
WHERE hour_ms <= ?1 AND hour_ms >= ?2
  AND (?3 IS NULL OR account_id = ?3)
  AND (?4 IS NULL OR client_key_id = ?4)
  AND (?5 IS NULL OR model = ?5)
  AND (?6 IS NULL OR transport = ?6)
ORDER BY hour_ms DESC
LIMIT 1
