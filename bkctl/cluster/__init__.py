"""Many stores as one source."""
