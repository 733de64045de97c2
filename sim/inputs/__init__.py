"""The inputs of a run: its records and its base model, loaded from the settings."""
