-- Adds a client key, or gives one of the same name a new secret: its identity, and with it its
-- conversations, stays.
INSERT INTO client_keys (name, scope, digest, visible_prefix, source, created_at_ms, expires_at_ms, models,
  max_concurrent, tokens_per_day, tokens_per_month, cost_per_day, cost_per_month, shows_quota)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
ON CONFLICT (name) DO UPDATE SET
  scope = excluded.scope,
  digest = excluded.digest,
  visible_prefix = excluded.visible_prefix,
  source = excluded.source,
  expires_at_ms = excluded.expires_at_ms,
  models = excluded.models,
  max_concurrent = excluded.max_concurrent,
  tokens_per_day = excluded.tokens_per_day,
  tokens_per_month = excluded.tokens_per_month,
  cost_per_day = excluded.cost_per_day,
  cost_per_month = excluded.cost_per_month,
  shows_quota = excluded.shows_quota,
  revoked_at_ms = NULL
