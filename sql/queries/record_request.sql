-- The row of an exchange: put in when the first byte leaves, or at the end; then brought up to date.
INSERT INTO requests (
  id, started_at_ms, ended_at_ms, client_key_id, account_id, conversation_id, response_id,
  previous_response_id, endpoint, transport, model_asked, model_served, service_tier, affinity,
  affinity_by, attempts, status, outcome, error_code, request_bytes, response_bytes, input_items,
  input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_source,
  first_byte_ms, first_output_ms, duration_ms, overhead_us, price_id, cost_micros, saved_micros
) VALUES (
  ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
  ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35
)
ON CONFLICT (id) DO UPDATE SET
  ended_at_ms = excluded.ended_at_ms,
  account_id = excluded.account_id,
  conversation_id = excluded.conversation_id,
  response_id = excluded.response_id,
  model_served = excluded.model_served,
  service_tier = excluded.service_tier,
  affinity = excluded.affinity,
  attempts = excluded.attempts,
  status = excluded.status,
  outcome = excluded.outcome,
  error_code = excluded.error_code,
  response_bytes = excluded.response_bytes,
  input_tokens = excluded.input_tokens,
  cached_tokens = excluded.cached_tokens,
  cache_write_tokens = excluded.cache_write_tokens,
  output_tokens = excluded.output_tokens,
  reasoning_tokens = excluded.reasoning_tokens,
  usage_source = excluded.usage_source,
  first_byte_ms = excluded.first_byte_ms,
  first_output_ms = excluded.first_output_ms,
  duration_ms = excluded.duration_ms,
  overhead_us = excluded.overhead_us,
  price_id = excluded.price_id,
  cost_micros = excluded.cost_micros,
  saved_micros = excluded.saved_micros
-- A row that is final is not opened again by an older one that comes late.
WHERE excluded.ended_at_ms IS NOT NULL OR requests.ended_at_ms IS NULL
