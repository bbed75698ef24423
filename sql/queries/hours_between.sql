-- The hourly sums from ?1 to before ?2 (milliseconds), in the order of time, without the hours of the
-- JSON array ?4, with the part that ?3 says.
SELECT
  h.hour_ms,
  CASE ?3
    WHEN 'account' THEN nullif(h.account_id, 0)
    WHEN 'client_key' THEN nullif(h.client_key_id, 0)
    WHEN 'model' THEN nullif(h.model, '')
    WHEN 'transport' THEN nullif(h.transport, '')
  END,
  h.requests, h.errors, h.without_usage, h.without_price, h.moves, h.input_tokens,
  h.input_tokens_with_cache_figure, h.cached_tokens, h.cache_write_tokens, h.output_tokens, h.reasoning_tokens,
  h.cost_micros, h.saved_micros, h.lost_tokens, h.lost_micros
FROM usage_hours AS h
WHERE h.hour_ms >= ?1 AND h.hour_ms < ?2 AND h.hour_ms NOT IN (SELECT value FROM json_each(?4))
ORDER BY h.hour_ms
