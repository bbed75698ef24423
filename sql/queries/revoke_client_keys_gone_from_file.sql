-- ?2 is the JSON array of the names that the file has now.
UPDATE client_keys SET revoked_at_ms = ?1
WHERE source = 'file' AND revoked_at_ms IS NULL AND name NOT IN (SELECT value FROM json_each(?2))
