"""Runs a plan: workers, the pool, cancellation, progress events, the report."""
