-- Adds the rows up to an id to the hourly sums; they are deleted in the same transaction.
INSERT INTO usage_hours (
  hour_ms, account_id, client_key_id, model, requests, errors, without_usage, input_tokens,
  cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens
)
SELECT
  started_at_ms - started_at_ms % 3600000,
  coalesce(account_id, 0),
  coalesce(client_key_id, 0),
  coalesce(model_served, model_asked, ''),
  count(*),
  sum(outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued')),
  sum(input_tokens IS NULL),
  sum(input_tokens),
  sum(cached_tokens),
  sum(cache_write_tokens),
  sum(output_tokens),
  sum(reasoning_tokens)
FROM requests
WHERE id <= ?1
GROUP BY 1, 2, 3, 4
ON CONFLICT (hour_ms, account_id, client_key_id, model) DO UPDATE SET
  requests = requests + excluded.requests,
  errors = errors + excluded.errors,
  without_usage = without_usage + excluded.without_usage,
  -- Unknown and known make known; only unknown stays unknown.
  input_tokens = coalesce(input_tokens + excluded.input_tokens, input_tokens, excluded.input_tokens),
  cached_tokens = coalesce(cached_tokens + excluded.cached_tokens, cached_tokens, excluded.cached_tokens),
  cache_write_tokens = coalesce(cache_write_tokens + excluded.cache_write_tokens, cache_write_tokens, excluded.cache_write_tokens),
  output_tokens = coalesce(output_tokens + excluded.output_tokens, output_tokens, excluded.output_tokens),
  reasoning_tokens = coalesce(reasoning_tokens + excluded.reasoning_tokens, reasoning_tokens, excluded.reasoning_tokens)
