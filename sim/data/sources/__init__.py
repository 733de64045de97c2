"""Where records come from: one file for each kind of data source, and the table of all of them."""
