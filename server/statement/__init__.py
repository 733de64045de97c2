"""Privacy statement of a run: as JSON fields, as English text and as a model card."""
