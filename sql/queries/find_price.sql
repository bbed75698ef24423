SELECT id FROM prices
WHERE model = ?1 AND service_tier = ?2 AND valid_from_ms = ?3 AND input_micros = ?4 AND cached_micros = ?5
  AND cache_write_micros = ?6 AND output_micros = ?7
