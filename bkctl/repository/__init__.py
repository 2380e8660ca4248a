"""A place full of backups: catalogue, chains, retention, prune, lock."""
