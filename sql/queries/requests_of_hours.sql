-- How many requests the hours of the JSON array ?1 have in the sums, and how many of them are still there
-- as rows; of more than ?2 that is not counted.
WITH summed AS (
  SELECT coalesce(sum(requests), 0) AS requests
  FROM usage_hours WHERE hour_ms IN (SELECT value FROM json_each(?1))
)
SELECT
  s.requests,
  CASE WHEN s.requests <= ?2 THEN (
    SELECT count(*)
    FROM json_each(?1) AS wanted
    -- Ids begin at the time of the start, in 1024ths of a millisecond. One end of the range, not two, of
    -- which SQLite would seek to the wrong one and read through all that comes before it.
    CROSS JOIN requests AS r ON r.id >= wanted.value * 1024
      AND r.id < min((wanted.value + 3600000) * 1024, (SELECT folded_below_id FROM usage_fold))
    WHERE r.outcome <> 'open'
  ) END
FROM summed AS s
