-- Accounts live a whole life: switched by people, limited and freed by their upstreams; client keys
-- have bounds. SQLite changes no CHECK, so the table of accounts is made anew. The views read it,
-- and are made again after the migrations.
DROP VIEW IF EXISTS accounts_now;
DROP VIEW IF EXISTS usage_by_key;
DROP VIEW IF EXISTS usage_by_model;
DROP VIEW IF EXISTS usage_by_account;
DROP VIEW IF EXISTS usage_by_day;
DROP VIEW IF EXISTS usage_by_hour;
DROP VIEW IF EXISTS conversations;
DROP VIEW IF EXISTS turns;
DROP VIEW IF EXISTS usage_facts;

-- An upstream credential and where to use it. A row is never deleted: requests
-- point at it. An account that is gone has removed_at_ms set.
CREATE TABLE accounts_anew (
  id              INTEGER PRIMARY KEY,
  name            TEXT    NOT NULL UNIQUE CHECK (name <> ''),
  kind            TEXT    NOT NULL CHECK (kind IN ('openai', 'codex')),
  base_url        TEXT    NOT NULL,
  -- Accounts of one state domain share server-side state. By default each is its own.
  state_domain    TEXT    NOT NULL,
  weight          INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0),
  -- Those of the highest priority are used first.
  priority        INTEGER NOT NULL DEFAULT 0,
  max_concurrent  INTEGER CHECK (max_concurrent > 0),
  -- 'file': kept in moorage.toml, the secret is read from there.
  -- 'command': made by a command or on the page, the secret is sealed below.
  source          TEXT    NOT NULL CHECK (source IN ('file', 'command')),
  -- The credential, sealed with the key file beside the database; never in clear.
  sealed_secret   BLOB,
  -- The file that holds the login of an account of kind 'codex'. It stays where it is.
  auth_file       TEXT,
  -- What a person wants of it. 'draining': what lives there goes on, nothing new begins.
  switch          TEXT    NOT NULL DEFAULT 'on' CHECK (switch IN ('on', 'draining', 'off')),
  switch_reason   TEXT,
  -- Rises with every change that a person makes: what a gateway learned about the account before
  -- it does not count any more.
  revision        INTEGER NOT NULL DEFAULT 0,
  -- What the pool knows of the account, so that a restart does not forget it.
  status          TEXT    NOT NULL DEFAULT 'active'
                  CHECK (status IN ('active', 'cooling_down', 'exhausted', 'expired', 'disabled')),
  status_until_ms INTEGER,
  status_reason   TEXT,
  -- The models that are limited though the account is not: a JSON array of
  -- {"model", "until_ms", "reason"}.
  limited_models  TEXT    NOT NULL DEFAULT '[]',
  -- The number of the last change of the status: an older one does not overwrite a newer one.
  status_sequence INTEGER NOT NULL DEFAULT 0,
  -- What its upstream last said about its quota: a JSON array of windows.
  quota           TEXT    NOT NULL DEFAULT '[]',
  -- Whose turn it is: rises with every lease.
  rotation        INTEGER NOT NULL DEFAULT 0,
  created_at_ms   INTEGER NOT NULL,
  removed_at_ms   INTEGER,
  CHECK (source = 'file' OR removed_at_ms IS NOT NULL OR sealed_secret IS NOT NULL OR auth_file IS NOT NULL)
) STRICT;

INSERT INTO accounts_anew (id, name, kind, base_url, state_domain, weight, max_concurrent, source, sealed_secret,
  switch, status, status_until_ms, status_reason, created_at_ms, removed_at_ms)
SELECT id, name, kind, base_url, state_domain, weight, max_concurrent, source, sealed_secret,
  iif(status = 'disabled' AND status_reason = 'by the operator', 'off', 'on'),
  iif(status = 'disabled' AND status_reason = 'by the operator', 'active', status),
  status_until_ms,
  iif(status = 'disabled' AND status_reason = 'by the operator', NULL, status_reason),
  created_at_ms, removed_at_ms
FROM accounts;

DROP TABLE accounts;
ALTER TABLE accounts_anew RENAME TO accounts;

-- What a client key may do. NULL: without bound.
ALTER TABLE client_keys ADD COLUMN expires_at_ms INTEGER;
-- A JSON array of names of models; one that ends with '*' stands for all that begin so.
ALTER TABLE client_keys ADD COLUMN models TEXT;
ALTER TABLE client_keys ADD COLUMN max_concurrent INTEGER CHECK (max_concurrent > 0);
ALTER TABLE client_keys ADD COLUMN tokens_per_day INTEGER CHECK (tokens_per_day >= 0);
ALTER TABLE client_keys ADD COLUMN tokens_per_month INTEGER CHECK (tokens_per_month >= 0);
ALTER TABLE client_keys ADD COLUMN cost_per_day REAL CHECK (cost_per_day >= 0);
ALTER TABLE client_keys ADD COLUMN cost_per_month REAL CHECK (cost_per_month >= 0);
-- 1: the upstream's quota headers reach the client.
ALTER TABLE client_keys ADD COLUMN shows_quota INTEGER NOT NULL DEFAULT 0 CHECK (shows_quota IN (0, 1));

-- Who is logged in on the page: the SHA-256 of the token in the cookie.
CREATE TABLE admin_sessions (
  digest        BLOB    PRIMARY KEY CHECK (length(digest) = 32),
  expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: how often people have changed accounts or keys, and which of these changes the gateway
-- that runs has taken over, with what was wrong about it.
CREATE TABLE roster (
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  version INTEGER NOT NULL,
  applied INTEGER NOT NULL,
  trouble TEXT
) STRICT;
INSERT INTO roster (id, version, applied) VALUES (1, 0, 0);
