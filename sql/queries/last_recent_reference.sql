SELECT coalesce(max(number), 0) FROM recent_references
