-- Enabling gives the account another chance, whatever was known of it.
UPDATE accounts SET
  switch = ?2,
  switch_reason = ?3,
  status = iif(?2 = 'on', 'active', status),
  status_until_ms = iif(?2 = 'on', NULL, status_until_ms),
  status_reason = iif(?2 = 'on', NULL, status_reason),
  limited_models = iif(?2 = 'on', '[]', limited_models),
  revision = revision + (?2 = 'on')
WHERE name = ?1 AND removed_at_ms IS NULL
