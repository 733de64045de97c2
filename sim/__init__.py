"""Simulated federated fine-tuning on one machine: data, configuration, plans, runs and sweeps."""
