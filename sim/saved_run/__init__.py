"""What is made of a run that has ended: texts, a synthetic data set, a repository of the hub."""
