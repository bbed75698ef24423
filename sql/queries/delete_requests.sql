DELETE FROM requests WHERE id <= ?1
