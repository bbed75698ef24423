-- The digest goes, too: the same key may come back under another name.
UPDATE client_keys SET revoked_at_ms = ?2, digest = randomblob(32) WHERE name = ?1 AND revoked_at_ms IS NULL
