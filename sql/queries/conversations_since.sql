-- The conversations that had a turn since ?1 (ISO-8601), the latest first.
SELECT * FROM conversations WHERE last_at >= ?1 ORDER BY last_at DESC
