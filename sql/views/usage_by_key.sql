CREATE VIEW usage_by_key AS
-- Requests, tokens and cost by client key; NULL for requests with no valid key.
SELECT
  k.name AS client_key,
  sum(f.requests) AS requests,
  sum(f.errors) AS errors,
  sum(f.without_usage) AS without_usage,
  sum(f.moves) AS moves,
  sum(f.input_tokens) AS input_tokens,
  sum(f.cached_tokens) AS cached_tokens,
  round(100.0 * sum(f.cached_tokens) / sum(f.input_tokens_with_cache_figure), 1) AS cached_percent,
  sum(f.output_tokens) AS output_tokens,
  sum(f.cost_micros) / 1e6 AS cost,
  sum(f.saved_micros) / 1e6 AS cost_saved,
  sum(f.lost_micros) / 1e6 AS cost_lost,
  sum(f.without_price) AS without_price
FROM usage_facts AS f
LEFT JOIN client_keys AS k ON k.id = f.client_key_id
GROUP BY 1
ORDER BY 1;
