-- What a person has switched off stays off, also if a gateway that runs does not know of it yet.
UPDATE accounts SET status = ?2, status_until_ms = ?3, status_reason = ?4 WHERE id = ?1 AND status <> 'disabled'
