"""Explore: the data in pictures."""
