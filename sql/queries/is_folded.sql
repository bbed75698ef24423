-- Whether the row of a request is in the sums: it is below their mark (?2), and has ended.
SELECT 1 FROM requests WHERE id = ?1 AND ?1 < ?2 AND outcome <> 'open'
