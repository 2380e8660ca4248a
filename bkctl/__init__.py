"""bkctl: consistent, verifiable, restorable backups of TiKV stores from RocksDB directories."""

__version__ = "0.1.0"
