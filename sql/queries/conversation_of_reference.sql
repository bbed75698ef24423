-- The conversation that a reference leads to: as it was learnt last, or as it has settled.
SELECT conversation FROM (
  SELECT coalesce(
    (SELECT conversation FROM recent_references WHERE digest = ?1 ORDER BY number DESC LIMIT 1),
    (SELECT conversation FROM settled_references WHERE digest = ?1)
  ) AS conversation
)
WHERE conversation IS NOT NULL
