-- ?2 is the JSON array of the names that the file has now.
UPDATE accounts SET removed_at_ms = ?1
WHERE source = 'file' AND removed_at_ms IS NULL AND name NOT IN (SELECT value FROM json_each(?2))
