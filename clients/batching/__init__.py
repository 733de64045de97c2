"""Batching: ragged records of many privacy units to rectangular batches on the device."""
