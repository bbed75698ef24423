-- The last of the batch of oldest rows that are over their age. Ids rise with time; a row that is
-- still open stops the batch.
SELECT max(id) FROM (
  SELECT id, started_at_ms, outcome FROM requests ORDER BY id LIMIT ?2
)
WHERE id < coalesce(
  (SELECT min(id) FROM (SELECT id, started_at_ms, outcome FROM requests ORDER BY id LIMIT ?2)
   WHERE started_at_ms > ?1 OR outcome = 'open'),
  9223372036854775807
)
