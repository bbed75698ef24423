UPDATE accounts SET rotation = ?2 WHERE id = ?1
