"""Takes backups: the seed's story, range by range."""
