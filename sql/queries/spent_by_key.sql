-- What a client key has spent since a moment at which an hour begins.
SELECT
  coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0),
  coalesce(sum(cost_micros), 0)
FROM usage_facts
WHERE client_key_id = ?1 AND at_ms >= ?2
