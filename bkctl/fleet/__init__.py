"""Backups of a fleet: parts taken on each store's machine, and sealed into one."""
