-- A reference is written twice: at once into recent_references, where it stands
-- behind the one before it, and later into settled_references, together with
-- many others in the order of their digests. Written there at once, every one of
-- them would dirty a page of its own. The view known_references shows both.

ALTER TABLE known_references RENAME TO settled_references;
DROP INDEX known_references_by_expiry;
CREATE INDEX settled_references_by_expiry ON settled_references (expires_at_ms);

-- The references that were learnt last, in the order in which they were; of two
-- with the same digest the later one holds. The gateway has all of them in
-- memory, so nothing looks for one here. What may stand here is checked when it settles.
CREATE TABLE recent_references (
  number        INTEGER PRIMARY KEY,
  digest        BLOB    NOT NULL,
  account_id    INTEGER NOT NULL,
  conversation  BLOB    NOT NULL,
  expires_at_ms INTEGER NOT NULL
) STRICT;
