"""Short programs to read and to run."""
