-- The owner says that it does not hold this any more.
DELETE FROM settled_references WHERE digest = ?1
