-- The ids of the account ?1 and of the client key ?2, if there are such.
SELECT (SELECT id FROM accounts WHERE name = ?1), (SELECT id FROM client_keys WHERE name = ?2)
