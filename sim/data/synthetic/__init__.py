"""Generated users and texts, which need no network."""
