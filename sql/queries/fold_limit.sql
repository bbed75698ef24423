-- Below which id rows are to be folded so that, of those from ?1 on, ?2 are left.
SELECT id FROM requests WHERE id >= ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2
