-- One request, with its names.
SELECT * FROM turns WHERE request_id = ?1
