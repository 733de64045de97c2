"""Reports, comparisons and benchmarks of runs."""
