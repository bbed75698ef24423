CREATE VIEW turns AS
-- One line a request, newest last. Tokens are NULL where the upstream told none;
-- input_tokens includes cached_tokens. Cost is in the currency of the price table,
-- NULL where no price is known; cost_saved is what the cache spared, cost_lost
-- what a turn cost more because it went to another account than the one before.
-- Reasons say who owned what the request points with; lost=… at their end why what
-- one connection alone knew could not be gone on from.
SELECT
  r.id AS request_id,
  strftime('%Y-%m-%dT%H:%M:%fZ', r.started_at_ms / 1000.0, 'unixepoch') AS started_at,
  r.conversation_id,
  r.response_id,
  r.previous_response_id,
  k.name AS client_key,
  a.name AS account,
  r.endpoint,
  r.transport,
  coalesce(r.model_served, r.model_asked) AS model,
  r.affinity,
  r.affinity_by,
  r.attempts,
  r.outcome,
  r.status,
  r.error_code,
  r.input_tokens,
  r.cached_tokens,
  r.cache_write_tokens,
  r.output_tokens,
  r.reasoning_tokens,
  r.cost_micros / 1e6 AS cost,
  r.saved_micros / 1e6 AS cost_saved,
  r.lost_tokens,
  r.lost_micros / 1e6 AS cost_lost,
  r.first_byte_ms,
  r.first_output_ms,
  r.duration_ms,
  r.overhead_us,
  r.reasons
FROM requests AS r
LEFT JOIN client_keys AS k ON k.id = r.client_key_id
LEFT JOIN accounts AS a ON a.id = r.account_id;
