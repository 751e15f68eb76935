"""Robustness: the same videos made harder."""
