"""Run folders: file names, reading, what differs between runs, and their epsilon together."""
