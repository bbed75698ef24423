SELECT n.live_conversations, a.source
FROM accounts_now AS n JOIN accounts AS a ON a.name = n.account
WHERE n.account = ?1
