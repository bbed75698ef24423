SELECT 1 FROM admin_sessions WHERE digest = ?1 AND expires_at_ms > ?2
