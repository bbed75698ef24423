-- What became of each attempt, where there is more to tell than the row tells itself.
ALTER TABLE requests ADD COLUMN each_attempt
  /* A JSON array with an object an attempt, in their order, the last one included: account_id, after_ms
     (its begin, from the start of the request), and of those that failed duration_ms, how, status and
     error_code. NULL for a single attempt that did not fail. People read the view attempts. */
  TEXT;

-- `.schema` shows what stands inside of a statement, and nothing of what stands before it. So what the
-- tables are for is written into them; nothing else about them changes.
PRAGMA writable_schema = ON;
CREATE TEMP TABLE comments (name TEXT PRIMARY KEY, comment TEXT NOT NULL);
INSERT INTO comments VALUES
  ('accounts', 'An upstream credential and where to use it. A row is never deleted: requests point at it. An
  -- account that is gone has removed_at_ms set. Times, in all tables, are milliseconds since 1970 UTC in
  -- columns that end in _ms; people read the views, which show them as text.'),
  ('client_keys', 'Who may call the gateway. Only a digest of the key is kept. The columns at the end bound what a
  -- key may do; NULL is without bound. models: a JSON array of names, one that ends with * stands for all
  -- that begin so. cost: in the currency of the prices, by UTC days and months. shows_quota: whether the
  -- quota headers of the upstream reach the client.'),
  ('requests', 'One row a client request, from arrival to its end. Tokens are NULL where the upstream told no
  -- figures: unknown is not zero. No prompt, no answer. Ids begin at the time of the start, in 1024ths of
  -- a millisecond: a range of time is a range of ids. People read the view turns.'),
  ('settled_references', 'What a request can point with, and the account it points at. The digest is of scope, kind and
  -- value: no session name, no prompt. Here by digest; recent_references are on their way here, and the
  -- view known_references shows both. detour_since_ms: since when a preference is served elsewhere.'),
  ('recent_references', 'The references that were learnt last, in the order in which they were; of two with the same digest
  -- the later one holds. The gateway has all of them in memory, so nothing looks for one here.'),
  ('prices', 'What tokens cost, as the configuration said it when rows were written. A row is never changed nor
  -- deleted: requests point at it. Amounts are millionths of the currency for a million tokens.'),
  ('usage_hours', 'Sums of requests by the hour, kept for ever. Rows are added soon after they have ended, in the
  -- transaction that moves the mark in usage_fold; they are removed later, and never before.'),
  ('usage_totals', 'Sums of the requests of all time, for the counters of /metrics. Folded together with usage_hours.'),
  ('usage_fold', 'How far the sums are. Rows with a smaller id that have ended are in them; all others are not.'),
  ('settings', 'Few things that the gateway keeps about itself, as the digest of the admin key.'),
  ('admin_sessions', 'Who is logged in on the page: the SHA-256 of the token in the cookie.'),
  ('roster', 'One row: how often people have changed accounts or keys, and which of these changes the gateway
  -- that runs has taken over, with what was wrong about it.');
UPDATE sqlite_schema SET sql = (
  SELECT substr(sqlite_schema.sql, 1, instr(sqlite_schema.sql, '(')) || char(10) || '  -- ' || c.comment
    || substr(sqlite_schema.sql, instr(sqlite_schema.sql, '(') + 1)
  FROM comments AS c WHERE c.name = sqlite_schema.name
)
WHERE type = 'table' AND name IN (SELECT name FROM comments);
DROP TABLE comments;
PRAGMA writable_schema = OFF;
