UPDATE client_keys SET
  expires_at_ms = ?2,
  models = ?3,
  max_concurrent = ?4,
  tokens_per_day = ?5,
  tokens_per_month = ?6,
  cost_per_day = ?7,
  cost_per_month = ?8,
  shows_quota = ?9
WHERE name = ?1 AND revoked_at_ms IS NULL
