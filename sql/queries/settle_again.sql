-- A soft reference moves with its conversation and lives on with use.
UPDATE settled_references SET
  account_id = ?2,
  conversation = ?3,
  expires_at_ms = ?4,
  detour_since_ms = ?5,
  connection = ?6
WHERE digest = ?1
