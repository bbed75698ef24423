SELECT * FROM accounts_now
