"""Benchmarks: stores to measure on, and the runs."""
