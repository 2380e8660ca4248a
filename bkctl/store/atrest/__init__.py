"""Encryption at rest as TiKV has it: which of a store's files are encrypted, how, and the keys."""
