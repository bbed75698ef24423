-- The turns with the ids of the JSON array ?1, the latest first.
SELECT * FROM turns WHERE request_id IN (SELECT value FROM json_each(?1)) ORDER BY request_id DESC
