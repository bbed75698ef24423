SELECT DISTINCT scope FROM client_keys
