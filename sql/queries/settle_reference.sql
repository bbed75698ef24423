-- For the first time. SQLite need not be able to take the half of this back, as it would with an
-- update in the same statement, and saves no copy of each page for that.
INSERT INTO settled_references (digest, account_id, conversation, expires_at_ms, detour_since_ms, connection)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (digest) DO NOTHING
