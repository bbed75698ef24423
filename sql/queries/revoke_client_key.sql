UPDATE client_keys SET revoked_at_ms = ?2 WHERE name = ?1 AND revoked_at_ms IS NULL
