"""What travels between the server and the nodes: the contract of a round, messages, tensor layout."""
