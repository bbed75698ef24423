-- The step before has written into the text of the tables: it is read again, or the columns would
-- be put where the text ended before.
PRAGMA writable_schema = RESET;

ALTER TABLE settled_references ADD COLUMN connection
  /* Of a response that is not stored: the identity of the connection that alone knows it, while it
     lasts. NULL for all that its account knows. */
  INTEGER;
ALTER TABLE recent_references ADD COLUMN connection INTEGER;
