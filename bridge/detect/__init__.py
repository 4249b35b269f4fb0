"""Detect: what changed. Pure functions from what was known and what is shown to values; no I/O, no clock, no log."""
