-- The requests that have ended, with ids from ?1 to before ?2, each as a sum of its own; columns as of
-- hours_between, with the part that ?3 says.
SELECT
  r.started_at_ms,
  CASE ?3
    WHEN 'account' THEN r.account_id
    WHEN 'client_key' THEN r.client_key_id
    WHEN 'model' THEN nullif(coalesce(r.model_served, r.model_asked), '')
    WHEN 'transport' THEN r.transport
  END,
  1, r.outcome NOT IN ('completed', 'incomplete', 'cancelled', 'queued'), r.input_tokens IS NULL,
  r.input_tokens IS NOT NULL AND r.cost_micros IS NULL, r.affinity = 'moved', r.input_tokens,
  CASE WHEN r.cached_tokens IS NOT NULL THEN r.input_tokens END, r.cached_tokens, r.cache_write_tokens,
  r.output_tokens, r.reasoning_tokens, r.cost_micros, r.saved_micros, r.lost_tokens, r.lost_micros
FROM requests AS r
WHERE r.id >= ?1 AND r.id < ?2 AND r.outcome <> 'open'
ORDER BY r.id
