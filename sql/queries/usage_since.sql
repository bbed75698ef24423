-- The sums since ?1 (milliseconds, the begin of an hour), by what ?2 says.
SELECT
  CASE ?2
    WHEN 'day' THEN strftime('%Y-%m-%d', f.at_ms / 1000, 'unixepoch')
    WHEN 'hour' THEN strftime('%Y-%m-%dT%H:00:00Z', f.at_ms / 1000, 'unixepoch')
    WHEN 'account' THEN a.name
    WHEN 'model' THEN nullif(f.model, '')
    WHEN 'client_key' THEN k.name
  END AS label,
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
LEFT JOIN accounts AS a ON a.id = f.account_id
LEFT JOIN client_keys AS k ON k.id = f.client_key_id
WHERE f.at_ms >= ?1
GROUP BY 1
ORDER BY 1
