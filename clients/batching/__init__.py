"""From the ragged records of many units to rectangular batches on the device."""
