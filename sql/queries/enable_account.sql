UPDATE accounts SET status = ?2, status_until_ms = NULL, status_reason = ?3
WHERE name = ?1 AND removed_at_ms IS NULL
