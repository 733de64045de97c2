"""The page of a run or a sweep: from run folders to figures, tables and one HTML file."""
