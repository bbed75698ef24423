UPDATE client_keys SET digest = ?2, visible_prefix = ?3 WHERE name = ?1 AND revoked_at_ms IS NULL
