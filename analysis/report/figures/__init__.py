"""Figures of a report: one module for each, and what they share."""
