UPDATE roster SET applied = ?1, trouble = ?2
