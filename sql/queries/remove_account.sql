UPDATE accounts SET removed_at_ms = ?2, sealed_secret = NULL, auth_file = NULL, switch = 'on', switch_reason = NULL,
  revision = revision + 1
WHERE name = ?1 AND removed_at_ms IS NULL
