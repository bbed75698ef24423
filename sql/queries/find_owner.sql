SELECT account_id, conversation, expires_at_ms FROM known_references WHERE digest = ?1
