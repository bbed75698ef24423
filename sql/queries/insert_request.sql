-- The row of an exchange, when it is written first. If a later state of it is there, that stays.
INSERT INTO requests (
  id, started_at_ms, ended_at_ms, client_key_id, account_id, conversation_id, response_id,
  previous_response_id, endpoint, transport, model_asked, model_served, service_tier, affinity,
  affinity_by, attempts, status, outcome, error_code, request_bytes, response_bytes, input_items,
  input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_source,
  first_byte_ms, first_output_ms, duration_ms, overhead_us, price_id, cost_micros, saved_micros, reasons,
  each_attempt
) VALUES (
  ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
  ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37
)
ON CONFLICT (id) DO NOTHING
