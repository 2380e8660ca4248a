"""SST files: writing them, and reading them back."""
