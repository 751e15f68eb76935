"""Audits: what could fool a model, or its metrics."""
