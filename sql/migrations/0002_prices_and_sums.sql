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

-- What tokens cost, as the configuration said it when rows were written. A row is never changed nor
-- deleted: requests point at it. Amounts are millionths of the currency for a million tokens.
CREATE TABLE prices (
  id                 INTEGER PRIMARY KEY,
  -- The model, or how its name begins with a * at the end.
  model              TEXT    NOT NULL CHECK (model <> ''),
  -- '' for the standard tier.
  service_tier       TEXT    NOT NULL,
  -- The price holds from then on, until the next of the same model and tier.
  valid_from_ms      INTEGER NOT NULL,
  input_micros       INTEGER NOT NULL CHECK (input_micros >= 0),
  cached_micros      INTEGER NOT NULL CHECK (cached_micros >= 0),
  cache_write_micros INTEGER NOT NULL CHECK (cache_write_micros >= 0),
  output_micros      INTEGER NOT NULL CHECK (output_micros >= 0),
  UNIQUE (model, service_tier, valid_from_ms, input_micros, cached_micros, cache_write_micros, output_micros)
) STRICT;

ALTER TABLE requests ADD COLUMN price_id
  /* The price that was used. NULL where none is known; so are the amounts. */
  INTEGER REFERENCES prices (id);
ALTER TABLE requests ADD COLUMN cost_micros
  /* Millionths of the currency. */
  INTEGER;
ALTER TABLE requests ADD COLUMN saved_micros
  /* What the cached tokens would have cost more without the cache. */
  INTEGER;
ALTER TABLE requests ADD COLUMN lost_tokens
  /* For a turn that moved: tokens that the turn before had sent already, and that the cache of the
     new account did not have. NULL for all others. */
  INTEGER;
ALTER TABLE requests ADD COLUMN lost_micros
  /* What those cost more. */
  INTEGER;

-- Ids begin at the time of the start, in 1024ths of a millisecond: a range of time is a range of
-- ids. No index of its own is needed for that.
DROP INDEX requests_by_start;
-- What people look for among millions of rows is what went wrong. Few rows are in these two, so few
-- requests pay for them.
CREATE INDEX requests_not_well ON requests (id)
WHERE outcome IN ('failed', 'refused', 'rejected', 'upstream_cut', 'timeout', 'client_gone', 'shutdown', 'lost');
CREATE INDEX requests_astray ON requests (id) WHERE affinity IN ('moved', 'unknown', 'refused');

-- Sums of requests by the hour, kept for ever. Rows are added soon after they have ended, in the
-- transaction that moves the mark in usage_fold; they are removed later, and never before.
CREATE TABLE hours (
  hour_ms                      INTEGER NOT NULL,
  -- 0 where the request had none: a primary key must not hold NULL.
  account_id                   INTEGER NOT NULL,
  client_key_id                INTEGER NOT NULL,
  -- '' where none was named.
  model                        TEXT    NOT NULL,
  transport                    TEXT    NOT NULL,
  requests                     INTEGER NOT NULL,
  errors                       INTEGER NOT NULL,
  -- How many of the requests had no figures: the sums below leave them out.
  without_usage                INTEGER NOT NULL,
  -- How many had figures, and no price: the amounts below leave them out.
  without_price                INTEGER NOT NULL,
  -- How many did not go where the cache was warm.
  moves                        INTEGER NOT NULL,
  -- NULL when no request of the hour had the figure.
  input_tokens                 INTEGER,
  -- Of the requests that told how much was cached: what cached_tokens is a part of.
  input_tokens_with_cache_figure INTEGER,
  cached_tokens                INTEGER,
  cache_write_tokens           INTEGER,
  output_tokens                INTEGER,
  reasoning_tokens             INTEGER,
  cost_micros                  INTEGER,
  saved_micros                 INTEGER,
  lost_tokens                  INTEGER,
  lost_micros                  INTEGER,
  PRIMARY KEY (hour_ms, account_id, client_key_id, model, transport)
) STRICT, WITHOUT ROWID;

-- Sums of the requests of all time, for the counters of /metrics. Folded together with the hours.
CREATE TABLE usage_totals (
  account_id         INTEGER NOT NULL,
  client_key_id      INTEGER NOT NULL,
  model              TEXT    NOT NULL,
  outcome            TEXT    NOT NULL,
  affinity           TEXT    NOT NULL,
  requests           INTEGER NOT NULL,
  attempts           INTEGER NOT NULL,
  input_tokens       INTEGER,
  cached_tokens      INTEGER,
  cache_write_tokens INTEGER,
  output_tokens      INTEGER,
  reasoning_tokens   INTEGER,
  cost_micros        INTEGER,
  saved_micros       INTEGER,
  lost_tokens        INTEGER,
  PRIMARY KEY (account_id, client_key_id, model, outcome, affinity)
) STRICT, WITHOUT ROWID;

INSERT INTO hours
SELECT hour_ms, account_id, client_key_id, model, '', requests, errors, without_usage,
  requests - without_usage, 0, input_tokens, CASE WHEN cached_tokens IS NOT NULL THEN input_tokens END,
  cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, NULL, NULL, NULL, NULL
FROM usage_hours;
-- What is known of them is how many they were.
INSERT INTO usage_totals
SELECT account_id, client_key_id, model, 'unknown', 'unknown', sum(requests), 0, sum(input_tokens),
  sum(cached_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), NULL, NULL, NULL
FROM usage_hours GROUP BY 1, 2, 3;
DROP TABLE usage_hours;
ALTER TABLE hours RENAME TO usage_hours;

-- How far the sums are. Rows with a smaller id that have ended are in them; all others are not.
CREATE TABLE usage_fold (
  only_row        INTEGER PRIMARY KEY CHECK (only_row = 1),
  folded_below_id INTEGER NOT NULL,
  -- How many of the rows that are in the sums are still in requests.
  folded_rows     INTEGER NOT NULL CHECK (folded_rows >= 0)
) STRICT;
INSERT INTO usage_fold VALUES (1, 0, 0);
