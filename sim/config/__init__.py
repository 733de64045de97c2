"""Configuration: typed settings, their validation, and composition by Hydra."""
