-- How much there is: rows of requests and when the oldest began, references, and hours with sums.
SELECT
  (SELECT folded_rows FROM usage_fold)
    + (SELECT count(*) FROM requests WHERE id >= (SELECT folded_below_id FROM usage_fold)),
  (SELECT started_at_ms FROM requests ORDER BY id LIMIT 1),
  (SELECT count(*) FROM settled_references) + (SELECT count(*) FROM recent_references),
  (SELECT count(DISTINCT hour_ms) FROM usage_hours)
