"""Simulates federated fine-tuning on one machine: data, configuration, planning, runs and sweeps."""
