"""The raft log beside the kv RocksDB: what was acknowledged and may not have been applied yet."""
