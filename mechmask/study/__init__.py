"""Whole experiments: they compose readings and changes, hold progress, files and resumption. No tensor algebra."""
