"""Proves backups whole, and compares them with a store."""
