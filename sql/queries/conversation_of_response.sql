SELECT conversation_id FROM requests WHERE response_id = ?1 AND conversation_id IS NOT NULL LIMIT 1
