-- One batch of what has settled.
DELETE FROM recent_references WHERE number IN (
  SELECT number FROM recent_references WHERE number <= ?1 ORDER BY number LIMIT ?2
)
