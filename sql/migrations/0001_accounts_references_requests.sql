-- Times are milliseconds since 1970-01-01 UTC, in columns that end in _ms.
-- People read the views, which show them as ISO-8601 text.

-- An upstream credential and where to use it. A row is never deleted: requests
-- point at it. An account that is gone has removed_at_ms set.
CREATE TABLE accounts (
  id              INTEGER PRIMARY KEY,
  name            TEXT    NOT NULL UNIQUE CHECK (name <> ''),
  kind            TEXT    NOT NULL CHECK (kind IN ('openai')),
  base_url        TEXT    NOT NULL,
  -- Accounts of one state domain share server-side state. By default each is its own.
  state_domain    TEXT    NOT NULL,
  weight          INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0),
  max_concurrent  INTEGER CHECK (max_concurrent > 0),
  -- 'file': kept in moorage.toml, the secret is read from there at every start.
  -- 'command': made by `moorage account add`, the secret is sealed below.
  source          TEXT    NOT NULL CHECK (source IN ('file', 'command')),
  -- The credential, sealed with the key file beside the database; never in clear.
  sealed_secret   BLOB,
  -- What the pool knows of the account, so that a restart does not forget it.
  status          TEXT    NOT NULL DEFAULT 'active'
                  CHECK (status IN ('active', 'cooling_down', 'exhausted', 'expired', 'disabled')),
  status_until_ms INTEGER,
  status_reason   TEXT,
  created_at_ms   INTEGER NOT NULL,
  removed_at_ms   INTEGER,
  CHECK (source = 'file' OR removed_at_ms IS NOT NULL OR sealed_secret IS NOT NULL)
) STRICT;

-- Who may call the gateway. Only a digest of the key is kept.
CREATE TABLE client_keys (
  id             INTEGER PRIMARY KEY,
  name           TEXT    NOT NULL UNIQUE CHECK (name <> ''),
  -- Keys of one scope share conversations. By default each key is its own scope.
  scope          TEXT    NOT NULL,
  -- SHA-256 of the key, and its first characters, to recognise it by.
  digest         BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
  visible_prefix TEXT    NOT NULL,
  source         TEXT    NOT NULL CHECK (source IN ('file', 'command')),
  created_at_ms  INTEGER NOT NULL,
  revoked_at_ms  INTEGER
) STRICT;

-- What a request can point with, and the account it points at. The key is a
-- digest of scope, kind and value: an id of another scope is as unknown here as
-- one that never existed, and no session name or prompt is kept.
CREATE TABLE known_references (
  digest        BLOB    PRIMARY KEY CHECK (length(digest) = 16),
  account_id    INTEGER NOT NULL REFERENCES accounts (id),
  -- The UUID of the conversation, 16 bytes.
  conversation  BLOB    NOT NULL CHECK (length(conversation) = 16),
  expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- For the sweep: what has expired is found without looking at the rest.
CREATE INDEX known_references_by_expiry ON known_references (expires_at_ms);

-- One row a client request, from arrival to its end. The tokens are NULL where
-- the upstream told no figures: unknown is not zero. No prompt, no answer.
CREATE TABLE requests (
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
  transport            TEXT    NOT NULL CHECK (transport IN ('json', 'sse')),
  model_asked          TEXT,
  model_served         TEXT,
  service_tier         TEXT,
  -- none: nothing known pointed anywhere; hit: went to the owner; moved: a
  -- preference was not honoured; unknown: a hard reference nobody knows, passed
  -- on; refused: the owner could not serve.
  affinity             TEXT    NOT NULL DEFAULT 'none'
                       CHECK (affinity IN ('none', 'hit', 'moved', 'unknown', 'refused')),
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
                       CHECK (outcome IN ('open', 'completed', 'incomplete', 'failed', 'cancelled', 'queued',
                                          'refused', 'rejected', 'upstream_cut', 'timeout', 'client_gone',
                                          'shutdown', 'lost')),
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
  usage_source         TEXT    CHECK (usage_source IN ('upstream')),
  first_byte_ms        INTEGER,
  first_output_ms      INTEGER,
  duration_ms          INTEGER,
  -- Time that the request spent in Moorage itself, the store included, in microseconds.
  overhead_us          INTEGER
) STRICT;

CREATE INDEX requests_by_start ON requests (started_at_ms);
CREATE INDEX requests_by_conversation ON requests (conversation_id, id) WHERE conversation_id IS NOT NULL;
-- Rows that a killed gateway left open are found at the next start.
CREATE INDEX requests_open ON requests (id) WHERE outcome = 'open';

-- Sums of rows that the sweep has removed, by the hour, kept for ever. A row is
-- added here in the transaction that removes it, so nothing counts twice.
CREATE TABLE usage_hours (
  hour_ms            INTEGER NOT NULL,
  -- 0 where the request had none: a primary key must not hold NULL.
  account_id         INTEGER NOT NULL,
  client_key_id      INTEGER NOT NULL,
  model              TEXT    NOT NULL,
  requests           INTEGER NOT NULL,
  errors             INTEGER NOT NULL,
  -- How many of the requests had no figures: the sums below leave them out.
  without_usage      INTEGER NOT NULL,
  -- NULL when no request of the hour had the figure.
  input_tokens       INTEGER,
  cached_tokens      INTEGER,
  cache_write_tokens INTEGER,
  output_tokens      INTEGER,
  reasoning_tokens   INTEGER,
  PRIMARY KEY (hour_ms, account_id, client_key_id, model)
) STRICT, WITHOUT ROWID;

-- Few things that the gateway keeps about itself: the digest of the admin key.
CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
