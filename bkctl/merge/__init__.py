"""Folds a chain into one full backup."""
