"""One run from start to end: inputs, ledger header, rounds, statement, adapter."""
