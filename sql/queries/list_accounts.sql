SELECT id, name, kind, base_url, state_domain, weight, priority, max_concurrent, source, sealed_secret, auth_file,
  switch, switch_reason, revision, status, status_until_ms, status_reason, limited_models, status_sequence, quota,
  rotation
FROM accounts
WHERE removed_at_ms IS NULL
ORDER BY id
