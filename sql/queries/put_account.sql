-- Adds an account, or brings one of the same name up to date. Its row, and with it its
-- conversations, stays. A new credential ends what the old one caused, so does coming back.
INSERT INTO accounts (name, kind, base_url, state_domain, weight, priority, max_concurrent, source, sealed_secret,
  auth_file, created_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
ON CONFLICT (name) DO UPDATE SET
  kind = excluded.kind,
  base_url = excluded.base_url,
  state_domain = excluded.state_domain,
  weight = excluded.weight,
  priority = excluded.priority,
  max_concurrent = excluded.max_concurrent,
  source = excluded.source,
  sealed_secret = excluded.sealed_secret,
  auth_file = excluded.auth_file,
  revision = revision + (status = 'expired' OR removed_at_ms IS NOT NULL OR excluded.source = 'command'),
  status = CASE WHEN status = 'expired' THEN 'active' ELSE status END,
  removed_at_ms = NULL
RETURNING id
