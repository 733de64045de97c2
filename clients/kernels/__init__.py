"""Sums and products over the rows of lanes, each with one implementation per kind of device."""
