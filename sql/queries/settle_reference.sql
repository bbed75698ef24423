-- A hard reference is written once; a soft one moves with its conversation and lives on with use.
INSERT INTO settled_references (digest, account_id, conversation, expires_at_ms, detour_since_ms, connection)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (digest) DO UPDATE SET
  account_id = excluded.account_id,
  conversation = excluded.conversation,
  expires_at_ms = excluded.expires_at_ms,
  detour_since_ms = excluded.detour_since_ms,
  connection = excluded.connection
