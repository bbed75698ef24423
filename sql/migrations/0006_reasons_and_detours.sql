-- Of a preference: since when it is served elsewhere; NULL while it is honoured.
-- After a while (a setting) it moves there.
ALTER TABLE settled_references ADD COLUMN detour_since_ms INTEGER;
ALTER TABLE recent_references ADD COLUMN detour_since_ms INTEGER;

-- Why the request went where it went: the references that were found with their
-- owners, and the accounts that could not be used.
ALTER TABLE requests ADD COLUMN reasons TEXT;
