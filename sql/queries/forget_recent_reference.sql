-- Reads the whole table, which is small; a response is lost by its owner once in a long while.
DELETE FROM recent_references WHERE digest = ?1
