"""Report: how pages and figures look."""
