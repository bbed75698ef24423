SELECT id, name, scope, digest, visible_prefix, source, created_at_ms
FROM client_keys
WHERE revoked_at_ms IS NULL
ORDER BY name
