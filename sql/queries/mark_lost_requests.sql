-- At the start: what is still open was cut when the gateway was killed.
UPDATE requests SET outcome = 'lost' WHERE outcome = 'open' RETURNING id
