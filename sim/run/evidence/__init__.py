"""What a run folder holds beside its ledger, compared with the ledger for `userdp verify`."""
