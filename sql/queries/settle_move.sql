-- What the turn ?1 lost by going to another account: of the tokens that the turn before it in its
-- conversation had sent already, those that its own account did not have in its cache.
UPDATE requests AS r SET
  lost_tokens = l.tokens,
  lost_micros = (
    SELECT (l.tokens * (p.input_micros - p.cached_micros) + 500000) / 1000000 FROM prices AS p WHERE p.id = r.price_id
  )
FROM (
  SELECT max(0, min(turn.input_tokens, before.input_tokens) - turn.cached_tokens) AS tokens
  FROM requests AS turn, requests AS before
  WHERE turn.id = ?1 AND before.account_id <> turn.account_id AND before.id = (
    SELECT b.id FROM requests AS b
    WHERE b.conversation_id = turn.conversation_id AND b.id < turn.id AND b.input_tokens IS NOT NULL
    ORDER BY b.id DESC LIMIT 1
  )
) AS l
WHERE r.id = ?1
