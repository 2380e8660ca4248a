"""Brings backups back into a new RocksDB directory."""
