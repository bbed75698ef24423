-- The turns of the conversation ?1 after the request ?2, oldest first.
SELECT * FROM turns WHERE conversation_id = ?1 AND request_id > ?2 ORDER BY request_id LIMIT ?3
