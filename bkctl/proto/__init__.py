"""The messages of TiKV and br that bkctl reads and writes, generated from the .proto files here.

Package names, numbers and types are the field's own (kvproto, raft-rs). Fields that bkctl has no
use for are left out, and skipped by readers.
"""
