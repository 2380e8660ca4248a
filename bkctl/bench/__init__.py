"""Measures how fast backups are here: makes stores, runs bkctl and its peers in turn, reports."""
