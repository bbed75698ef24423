-- The attempts of the request ?1, in their order.
SELECT attempt, account, started_at, after_ms, duration_ms, how, status, error_code
FROM attempts WHERE request_id = ?1 ORDER BY attempt
