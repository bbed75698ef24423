INSERT INTO recent_references (digest, account_id, conversation, expires_at_ms, detour_since_ms, connection)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
