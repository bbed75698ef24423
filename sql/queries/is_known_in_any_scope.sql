-- The digests of one id in all scopes stand together. What has not settled is a small table.
SELECT EXISTS (SELECT 1 FROM settled_references WHERE digest BETWEEN ?1 AND ?2)
  OR EXISTS (SELECT 1 FROM recent_references WHERE digest BETWEEN ?1 AND ?2)
