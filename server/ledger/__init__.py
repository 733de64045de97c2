"""The write-ahead record of every release, and the hash chain that protects it."""
