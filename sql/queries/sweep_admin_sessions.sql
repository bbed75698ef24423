-- Those that have expired, and all but the youngest ?2.
DELETE FROM admin_sessions WHERE expires_at_ms <= ?1
  OR digest NOT IN (SELECT digest FROM admin_sessions ORDER BY expires_at_ms DESC LIMIT ?2)
