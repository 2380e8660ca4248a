"""What the records of a TiKV store mean: keys, write records, locks, the snapshot rule."""
