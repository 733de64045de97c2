"""Privacy mechanisms: sampling, sensitivity, noise and accounting event of a round in one object."""
