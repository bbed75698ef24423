INSERT INTO admin_sessions (digest, expires_at_ms) VALUES (?1, ?2)
