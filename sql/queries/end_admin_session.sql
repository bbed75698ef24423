DELETE FROM admin_sessions WHERE digest = ?1
