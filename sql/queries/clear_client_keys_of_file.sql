-- The digests that the keys of the file had until now; each gets its own anew.
UPDATE client_keys SET digest = randomblob(32) WHERE source = 'file'
