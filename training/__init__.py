"""Trains the embedded demo model from scratch; `python -m training` runs every step in order."""
