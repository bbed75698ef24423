-- Adds a client key, or gives one of the same name a new secret: its identity, and with it its
-- conversations, stays.
INSERT INTO client_keys (name, scope, digest, visible_prefix, source, created_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (name) DO UPDATE SET
  scope = excluded.scope,
  digest = excluded.digest,
  visible_prefix = excluded.visible_prefix,
  source = excluded.source,
  revoked_at_ms = NULL
