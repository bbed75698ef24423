SELECT id, name, kind, base_url, state_domain, weight, max_concurrent, source, sealed_secret, status,
  status_until_ms, status_reason
FROM accounts
WHERE removed_at_ms IS NULL
ORDER BY id
