-- The sums go up to below ?1 now, and ?2 more rows are in them and in requests.
UPDATE usage_fold SET folded_below_id = ?1, folded_rows = folded_rows + ?2
