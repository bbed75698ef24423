SELECT id, name, state_domain FROM accounts WHERE removed_at_ms IS NOT NULL ORDER BY id
