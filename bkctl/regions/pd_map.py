"""The region map of a cluster, from PD's HTTP API, a piece at a time.

    GET <pd>/pd/api/v1/regions/key?key=<encoded key, percent-encoded>&limit=<n>
    {"count": n, "regions": [region…]}       as `bkctl.regions.pd` has them, in key order

The pieces are not of one moment: where regions change meanwhile they overlap, or leave gaps, as any
listing of PD does. Source: PD's `ScanRegions` handler.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from bkctl.errors import RegionMapError, UsageError
from bkctl.regions import pd
from bkctl.regions.pd_server import ask_pd
from bkctl.regions.region import Region

_PATH = "/pd/api/v1/regions/key"
_LIMIT = 1024
_MAX_REGIONS = 1 << 24


def fetch_regions(urls: str) -> list[Region]:
    """Ask PD for all regions; `urls` are one or more, separated by commas, and tried in turn.

    Raises UsageError, which says what each of them answered.
    """
    regions: list[Region] = []
    key = b""
    while len(regions) <= _MAX_REGIONS:
        found = ask_pd(urls, f"{_PATH}?key={quote(key, safe='')}&limit={_LIMIT}", _read)
        regions += found
        end_key = found[-1].end_key if found else b""
        if not end_key:
            return regions
        if end_key <= key:
            break
        key = end_key
    raise UsageError(f"{urls}: PD's list of regions does not end; check --pd")


def _read(document: object) -> list[Region]:
    try:
        return pd.parse(json.dumps(document), "the answer")
    except RegionMapError as e:
        raise ValueError(f"{e}; is this PD?") from None
