INSERT INTO prices (model, service_tier, valid_from_ms, input_micros, cached_micros, cache_write_micros, output_micros)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT DO NOTHING
