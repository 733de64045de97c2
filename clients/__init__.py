"""What happens at a user: selecting records, training in lanes, clipping, adding up."""
