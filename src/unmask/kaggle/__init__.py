"""Kaggle: the upload folder, and the code that predicts a test set from it."""
