"""The privacy claim of a run: as fields, as English and as a model card."""
