UPDATE accounts SET sealed_secret = ?2 WHERE name = ?1
