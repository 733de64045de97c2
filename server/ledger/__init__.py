"""Write-ahead ledger of every release, protected by a hash chain."""
