-- The words of a row are compared one by one, and not with IN: for a list SQLite makes a table of the
-- words at every insert, in the checks as in the conditions of the indexes. That took a third of the
-- time of writing a row.
CREATE TABLE requests_anew (
  id                   INTEGER PRIMARY KEY,
  started_at_ms        INTEGER NOT NULL,
  -- When the outcome was known; NULL while the exchange runs.
  ended_at_ms          INTEGER,
  client_key_id        INTEGER REFERENCES client_keys (id),
  account_id           INTEGER REFERENCES accounts (id),
  conversation_id      TEXT,
  response_id          TEXT,
  previous_response_id TEXT,
  endpoint             TEXT    NOT NULL,
  transport            TEXT    NOT NULL
                       CHECK (transport = 'json' OR transport = 'sse' OR transport = 'websocket'),
  model_asked          TEXT,
  model_served         TEXT,
  service_tier         TEXT,
  -- none: nothing known pointed anywhere; hit: went to the owner; moved: a
  -- preference was not honoured; unknown: a hard reference nobody knows, passed
  -- on; refused: the owner could not serve.
  affinity             TEXT    NOT NULL DEFAULT 'none'
                       CHECK (affinity = 'none' OR affinity = 'hit' OR affinity = 'moved'
                              OR affinity = 'unknown' OR affinity = 'refused'),
  -- Which reference decided.
  affinity_by          TEXT,
  attempts             INTEGER NOT NULL DEFAULT 0,
  -- The HTTP status that the client got; NULL if it got none.
  status               INTEGER,
  -- open: runs now. completed, incomplete, failed, cancelled: as the upstream
  -- said it. queued: accepted in the background. refused: by Moorage. rejected:
  -- by the upstream, with an error status. upstream_cut: ended without a word.
  -- timeout: nothing came in time. client_gone: the client hung up. shutdown:
  -- Moorage was stopped. lost: Moorage was killed while the exchange ran.
  outcome              TEXT    NOT NULL
                       CHECK (outcome = 'open' OR outcome = 'completed' OR outcome = 'incomplete'
                              OR outcome = 'failed' OR outcome = 'cancelled' OR outcome = 'queued'
                              OR outcome = 'refused' OR outcome = 'rejected' OR outcome = 'upstream_cut'
                              OR outcome = 'timeout' OR outcome = 'client_gone' OR outcome = 'shutdown'
                              OR outcome = 'lost'),
  error_code           TEXT,
  request_bytes        INTEGER,
  response_bytes       INTEGER,
  input_items          INTEGER,
  -- Includes the cached ones.
  input_tokens         INTEGER,
  cached_tokens        INTEGER,
  cache_write_tokens   INTEGER,
  output_tokens        INTEGER,
  reasoning_tokens     INTEGER,
  -- Where the figures came from: 'upstream', or NULL with the figures.
  usage_source         TEXT    CHECK (usage_source = 'upstream'),
  first_byte_ms        INTEGER,
  first_output_ms      INTEGER,
  duration_ms          INTEGER,
  -- Time that the request spent in Moorage itself, the store included, in microseconds.
  overhead_us          INTEGER,
  -- The price that was used. NULL where none is known; so are the amounts.
  price_id             INTEGER REFERENCES prices (id),
  -- Millionths of the currency.
  cost_micros          INTEGER,
  -- What the cached tokens would have cost more without the cache.
  saved_micros         INTEGER,
  -- For a turn that moved: tokens that the turn before had sent already, and that the cache of the
  -- new account did not have. NULL for all others.
  lost_tokens          INTEGER,
  -- What those cost more.
  lost_micros          INTEGER
) STRICT;

-- The views are made anew after every migration; they must not stand in the way of this one.
DROP VIEW IF EXISTS accounts_now;
DROP VIEW IF EXISTS usage_by_key;
DROP VIEW IF EXISTS usage_by_model;
DROP VIEW IF EXISTS usage_by_account;
DROP VIEW IF EXISTS usage_by_day;
DROP VIEW IF EXISTS usage_by_hour;
DROP VIEW IF EXISTS conversations;
DROP VIEW IF EXISTS turns;
DROP VIEW IF EXISTS usage_facts;

INSERT INTO requests_anew SELECT * FROM requests;
DROP TABLE requests;
ALTER TABLE requests_anew RENAME TO requests;

CREATE INDEX requests_by_conversation ON requests (conversation_id, id) WHERE conversation_id IS NOT NULL;
-- Rows that a killed gateway left open are found at the next start.
CREATE INDEX requests_open ON requests (id) WHERE outcome = 'open';
-- What people look for among millions of rows is what went wrong. Few rows are in these two, so few
-- requests pay for them. Whoever uses them asks with the same words.
CREATE INDEX requests_not_well ON requests (id)
WHERE outcome <> 'open' AND outcome <> 'completed' AND outcome <> 'incomplete' AND outcome <> 'cancelled'
  AND outcome <> 'queued';
CREATE INDEX requests_astray ON requests (id) WHERE affinity <> 'none' AND affinity <> 'hit';
