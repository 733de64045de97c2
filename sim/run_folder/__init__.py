"""The files of a run folder: their names, reading them, and what a folder of runs spent together."""
