"""User inference: can one tell from an adapter who took part; private data, simulation_only."""
