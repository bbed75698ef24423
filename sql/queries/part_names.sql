-- The names of all accounts (?1 = 'account') or client keys.
SELECT id, name FROM accounts WHERE ?1 = 'account'
UNION ALL
SELECT id, name FROM client_keys WHERE ?1 = 'client_key'
