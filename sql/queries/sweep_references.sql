DELETE FROM settled_references WHERE digest IN (
  SELECT digest FROM settled_references WHERE expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2
)
