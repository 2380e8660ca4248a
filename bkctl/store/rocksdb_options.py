"""The options that RocksDB opens views with."""

from __future__ import annotations

from rocksdict import BlockBasedOptions, Cache, Options

_OPEN_FILES = 64
_BLOCK_CACHE = 8 << 20


def rocksdb_options(levels: int | None = None) -> Options:
    """How views are opened: little memory, however many files; `levels` if not the usual number."""
    options = Options(raw_mode=True)
    if levels is not None:
        options.set_num_levels(levels)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(_BLOCK_CACHE))
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    # Bounded, so that memory does not grow with the number of files.
    options.set_max_open_files(_OPEN_FILES)
    # Few are opened to begin with; each family would start sixteen threads for them.
    options.set_max_file_opening_threads(1)
    options.set_skip_stats_update_on_db_open(True)
    return options
