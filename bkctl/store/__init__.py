"""The source: a store opened without touching it, and iterators that cannot end silently."""
