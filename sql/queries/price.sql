SELECT * FROM prices WHERE id = ?1
