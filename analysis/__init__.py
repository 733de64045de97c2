"""Reports, comparisons and benchmarks over finished runs."""
