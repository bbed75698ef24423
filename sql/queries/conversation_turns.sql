SELECT * FROM turns WHERE conversation_id = ?1 ORDER BY request_id LIMIT ?2
