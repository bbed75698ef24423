-- At the start: all that has not settled, in its order.
SELECT digest, account_id, conversation, expires_at_ms, detour_since_ms, connection FROM recent_references ORDER BY number
