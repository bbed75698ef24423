-- Of the first ?3 rows with ids from ?1 to below ?2: the last id, how many they are, and how many of
-- them have ended.
SELECT max(id), count(*), coalesce(sum(outcome <> 'open'), 0)
FROM (SELECT id, outcome FROM requests WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)
