"""Plans: the mechanism for the settings and a declared number of users, and its epsilon."""
