"""Worker processes, and what every job of theirs tells."""
