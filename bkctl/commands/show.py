"""`bkctl show`: one backup in full."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bkctl.commands import options

HELP = """Show one backup: window, ranges, figures by column family and region, files, report.

NAME is a backup's, or latest for the newest complete one. Of its SST files only the end of one is
read. Unfinished backups are shown as far as they came.

\b
Example:
  bkctl show latest --storage local:///backups
  bkctl show 20261123T101500.000Z-full --storage gcs://bucket/backups --json

\b
Exit codes: 0 shown; 1 failed; 2 no such backup, bad option;
129/130/143 interrupted.
"""

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="The backup; default: latest.")]


def show(
    name: Name = "latest",
    storage: options.StorageUrl = None,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Show one backup."""
    from bkctl.repository.details import inspect_backup
    from bkctl.storage.url import open_storage, parse_storage
    from bkctl.ui import backups, output

    with open_storage(parse_storage(options.required("--storage", storage))) as opened:
        details = inspect_backup(opened, name)
    if json:
        output.print_json(backups.details_document(details))
    else:
        backups.print_details(output.Page.of_stdout(), details, time.time())
