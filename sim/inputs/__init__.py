"""What a run works on: its records and its base model, loaded as the settings say."""
