"""Small things that every other room may use: errors, random streams, caches, file hashes."""
