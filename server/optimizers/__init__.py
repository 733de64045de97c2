"""Server optimisers: torch.optim, and rules for noisy means."""
