"""Linear layers of a frozen base model in 8 or 4 bits."""
