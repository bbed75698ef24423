SELECT * FROM turns ORDER BY request_id DESC LIMIT ?1
