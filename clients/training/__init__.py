"""The update of every unit of a cohort, clipped and summed within the memory at hand."""
