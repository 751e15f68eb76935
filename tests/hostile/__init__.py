"""A part of files that are damaged, unusual or malicious, and what the stages make of it."""
