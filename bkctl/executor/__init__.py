"""Backups over the machines that the stores are on."""
