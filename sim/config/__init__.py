"""The configuration: typed settings, their validation, and composition through Hydra."""
