"""Local training of a cohort: per-unit updates, their clip and their sum, within device memory."""
