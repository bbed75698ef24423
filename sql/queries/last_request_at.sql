SELECT started_at_ms FROM requests ORDER BY id DESC LIMIT 1
