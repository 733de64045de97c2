"""Server optimisers: torch.optim, and rules made for noisy means."""
