"""Text that a saved adapter's model writes, beside what its base model writes."""
