"""Faces: found in frames, linked over time, cropped and stored in shards."""
