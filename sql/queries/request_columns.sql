-- All that is kept of one request.
SELECT * FROM requests WHERE id = ?1
