"""A federation of processes: shards of the data, certificates, SuperLink, SuperNodes, workers."""
