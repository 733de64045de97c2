"""Tables over the runs of a sweep: medians over seeds, groups of users, canaries, pass rates."""
