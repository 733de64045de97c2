"""The aggregator: mechanisms, accounting, ledger, statement and the round itself."""
