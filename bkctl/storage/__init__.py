"""Bytes at a URL: one small interface, an implementation for each kind of place."""
