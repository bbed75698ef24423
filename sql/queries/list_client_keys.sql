SELECT id, name, scope, digest, visible_prefix, source, created_at_ms, expires_at_ms, models, max_concurrent,
  tokens_per_day, tokens_per_month, cost_per_day, cost_per_month, shows_quota
FROM client_keys
WHERE revoked_at_ms IS NULL
ORDER BY name
