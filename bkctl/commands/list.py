"""`bkctl list`: what a repository holds."""

from __future__ import annotations

import time

from bkctl.commands import options

HELP = """List the backups of a repository, incrementals below what they build on.

Shown are state, age, window of time, stored size, files and records. A backup is complete,
unfinished (with who began it) or damaged: its description cannot be read, and why. Whether files
are whole is for bkctl verify. The URL of a single backup, as br writes it, is listed as that one.

\b
Example:
  bkctl list --storage local:///backups
  bkctl list --storage 's3://bucket/backups?region=eu-west-1' --json

\b
Exit codes: 0 listed, even if there is none; 1 failed; 2 bad option;
129/130/143 interrupted.
"""


def list_(
    storage: options.StorageUrl = None,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """List backups."""
    from bkctl.repository.catalog import read_catalog
    from bkctl.storage.url import open_storage, parse_storage
    from bkctl.ui import backups, output

    with open_storage(parse_storage(options.required("--storage", storage))) as opened:
        catalog = read_catalog(opened, to_show=True)
    if json:
        output.print_json(backups.catalog_document(catalog))
    else:
        backups.print_catalog(output.Page.of_stdout(), catalog, time.time())
