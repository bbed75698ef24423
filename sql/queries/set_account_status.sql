-- What was learned before a person's last change does not count, nor what is older than what is here.
UPDATE accounts SET status = ?4, status_until_ms = ?5, status_reason = ?6, limited_models = ?7, status_sequence = ?3
WHERE id = ?1 AND revision = ?2 AND status_sequence < ?3
