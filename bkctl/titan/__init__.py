"""Titan's blob files: the values that a TiKV store keeps beside its SST files."""
