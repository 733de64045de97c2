"""Partitioners with the public interface of those of flwr-datasets, which needs older datasets."""

from __future__ import annotations


class ByNaturalId:
    """As `flwr_datasets.partitioner.NaturalIdPartitioner`, whose ids are known after a load."""

    def __init__(self, partition_by):
        self.by, self.dataset, self.partition_id_to_natural_id = partition_by, None, {}

    @property
    def num_partitions(self):
        return len(self.dataset.unique(self.by))

    def load_partition(self, partition_id):
        self.partition_id_to_natural_id = dict(enumerate(self.dataset.unique(self.by)))
        name = self.partition_id_to_natural_id[partition_id]
        return self.dataset.filter(lambda row: row[self.by] == name)
