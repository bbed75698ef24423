UPDATE accounts SET status = ?2, status_until_ms = ?3, status_reason = ?4 WHERE id = ?1
