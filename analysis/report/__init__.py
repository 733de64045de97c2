"""`userdp report`: one HTML page about a run or a sweep, with its figures and tables."""
