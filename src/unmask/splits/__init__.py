"""Splits: groups of videos that must stay together, folds, and the roles they play."""
