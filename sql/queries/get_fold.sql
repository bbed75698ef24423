SELECT folded_below_id, folded_rows FROM usage_fold
