SELECT account_id, conversation, expires_at_ms, detour_since_ms, connection FROM known_references WHERE digest = ?1
