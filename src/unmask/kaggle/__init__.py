"""Kaggle: the upload folder, and the code that answers a test set from it."""
