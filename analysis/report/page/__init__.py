"""The HTML page of a report: template, style, headline and table of runs."""
