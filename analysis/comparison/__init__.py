"""`userdp compare`: strategies and record selections on the same users and budget."""
