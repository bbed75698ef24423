-- Removes the oldest rows below ?1, ?2 at most. One that is still open stays.
DELETE FROM requests WHERE id IN (
  SELECT id FROM requests WHERE id < ?1 AND outcome <> 'open' ORDER BY id LIMIT ?2
)
