UPDATE roster SET version = version + 1 RETURNING version
