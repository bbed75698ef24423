UPDATE accounts SET removed_at_ms = ?2, sealed_secret = NULL WHERE name = ?1 AND removed_at_ms IS NULL
