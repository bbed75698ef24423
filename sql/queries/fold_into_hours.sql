-- Adds the rows with ids from ?1 to below ?2 that have ended to the hourly sums; with ?3 = -1 takes
-- them out again.
INSERT INTO usage_hours (
  hour_ms, account_id, client_key_id, model, transport, requests, errors, without_usage, without_price,
  moves, input_tokens, input_tokens_with_cache_figure, cached_tokens, cache_write_tokens, output_tokens,
  reasoning_tokens, cost_micros, saved_micros, lost_tokens, lost_micros
)
SELECT
  started_at_ms - started_at_ms % 3600000,
  coalesce(account_id, 0),
  coalesce(client_key_id, 0),
  coalesce(model_served, model_asked, ''),
  transport,
  ?3 * count(*),
  ?3 * sum(outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued')),
  ?3 * sum(input_tokens IS NULL),
  ?3 * sum(input_tokens IS NOT NULL AND cost_micros IS NULL),
  ?3 * sum(affinity = 'moved'),
  ?3 * sum(input_tokens),
  ?3 * sum(input_tokens) FILTER (WHERE cached_tokens IS NOT NULL),
  ?3 * sum(cached_tokens),
  ?3 * sum(cache_write_tokens),
  ?3 * sum(output_tokens),
  ?3 * sum(reasoning_tokens),
  ?3 * sum(cost_micros),
  ?3 * sum(saved_micros),
  ?3 * sum(lost_tokens),
  ?3 * sum(lost_micros)
FROM requests
WHERE id >= ?1 AND id < ?2 AND outcome <> 'open'
GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (hour_ms, account_id, client_key_id, model, transport) DO UPDATE SET
  requests = requests + excluded.requests,
  errors = errors + excluded.errors,
  without_usage = without_usage + excluded.without_usage,
  without_price = without_price + excluded.without_price,
  moves = moves + excluded.moves,
  -- Unknown and known make known; only unknown stays unknown.
  input_tokens = coalesce(input_tokens + excluded.input_tokens, input_tokens, excluded.input_tokens),
  input_tokens_with_cache_figure = coalesce(input_tokens_with_cache_figure + excluded.input_tokens_with_cache_figure, input_tokens_with_cache_figure, excluded.input_tokens_with_cache_figure),
  cached_tokens = coalesce(cached_tokens + excluded.cached_tokens, cached_tokens, excluded.cached_tokens),
  cache_write_tokens = coalesce(cache_write_tokens + excluded.cache_write_tokens, cache_write_tokens, excluded.cache_write_tokens),
  output_tokens = coalesce(output_tokens + excluded.output_tokens, output_tokens, excluded.output_tokens),
  reasoning_tokens = coalesce(reasoning_tokens + excluded.reasoning_tokens, reasoning_tokens, excluded.reasoning_tokens),
  cost_micros = coalesce(cost_micros + excluded.cost_micros, cost_micros, excluded.cost_micros),
  saved_micros = coalesce(saved_micros + excluded.saved_micros, saved_micros, excluded.saved_micros),
  lost_tokens = coalesce(lost_tokens + excluded.lost_tokens, lost_tokens, excluded.lost_tokens),
  lost_micros = coalesce(lost_micros + excluded.lost_micros, lost_micros, excluded.lost_micros)
