-- Adds the rows with ids from ?1 to below ?2 that have ended to the sums of all time; with ?3 = -1
-- takes them out again.
INSERT INTO usage_totals (
  account_id, client_key_id, model, outcome, affinity, requests, attempts, input_tokens, cached_tokens,
  cache_write_tokens, output_tokens, reasoning_tokens, cost_micros, saved_micros, lost_tokens
)
SELECT
  coalesce(account_id, 0),
  coalesce(client_key_id, 0),
  coalesce(model_served, model_asked, ''),
  outcome,
  affinity,
  ?3 * count(*),
  ?3 * sum(attempts),
  ?3 * sum(input_tokens),
  ?3 * sum(cached_tokens),
  ?3 * sum(cache_write_tokens),
  ?3 * sum(output_tokens),
  ?3 * sum(reasoning_tokens),
  ?3 * sum(cost_micros),
  ?3 * sum(saved_micros),
  ?3 * sum(lost_tokens)
FROM requests
WHERE id >= ?1 AND id < ?2 AND outcome <> 'open'
GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (account_id, client_key_id, model, outcome, affinity) DO UPDATE SET
  requests = requests + excluded.requests,
  attempts = attempts + excluded.attempts,
  input_tokens = coalesce(input_tokens + excluded.input_tokens, input_tokens, excluded.input_tokens),
  cached_tokens = coalesce(cached_tokens + excluded.cached_tokens, cached_tokens, excluded.cached_tokens),
  cache_write_tokens = coalesce(cache_write_tokens + excluded.cache_write_tokens, cache_write_tokens, excluded.cache_write_tokens),
  output_tokens = coalesce(output_tokens + excluded.output_tokens, output_tokens, excluded.output_tokens),
  reasoning_tokens = coalesce(reasoning_tokens + excluded.reasoning_tokens, reasoning_tokens, excluded.reasoning_tokens),
  cost_micros = coalesce(cost_micros + excluded.cost_micros, cost_micros, excluded.cost_micros),
  saved_micros = coalesce(saved_micros + excluded.saved_micros, saved_micros, excluded.saved_micros),
  lost_tokens = coalesce(lost_tokens + excluded.lost_tokens, lost_tokens, excluded.lost_tokens)
