-- The sums of all time by account, client key, model, outcome and affinity: those that are folded, and
-- the rows that are not.
SELECT a.name, k.name, nullif(t.model, ''), t.outcome, t.affinity, sum(t.requests), sum(t.attempts),
  sum(t.input_tokens), sum(t.cached_tokens), sum(t.cache_write_tokens), sum(t.output_tokens),
  sum(t.reasoning_tokens), sum(t.cost_micros), sum(t.saved_micros), sum(t.lost_tokens)
FROM (
  SELECT * FROM usage_totals
  UNION ALL
  SELECT
    coalesce(r.account_id, 0), coalesce(r.client_key_id, 0), coalesce(r.model_served, r.model_asked, ''), r.outcome,
    r.affinity, 1, r.attempts, r.input_tokens, r.cached_tokens, r.cache_write_tokens, r.output_tokens,
    r.reasoning_tokens, r.cost_micros, r.saved_micros, r.lost_tokens
  FROM requests AS r
  WHERE r.id >= (SELECT folded_below_id FROM usage_fold) AND r.outcome <> 'open'
) AS t
LEFT JOIN accounts AS a ON a.id = t.account_id
LEFT JOIN client_keys AS k ON k.id = t.client_key_id
GROUP BY t.account_id, t.client_key_id, t.model, t.outcome, t.affinity
