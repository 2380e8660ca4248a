"""The GC safe point of a cluster, from PD's HTTP API.

    GET <pd>/pd/api/v1/gc/safepoint
    {"service_gc_safe_points": [...], "gc_safe_point": 440000000000000000}

Versions that a newer one at or before the safe point replaced, and deletes at or before it, may be
gone from the stores. Source: PD's `serviceGCSafepointHandler`.
"""

from __future__ import annotations

from bkctl.errors import UsageError
from bkctl.regions.pd_server import ask_pd

_PATH = "/pd/api/v1/gc/safepoint"


def fetch_gc_safe_point(urls: str) -> int:
    """Ask PD for the safe point, a TSO; `urls` are one or more, separated by commas.

    They are tried in turn. Raises UsageError, which says what each of them answered.
    """
    try:
        return ask_pd(urls, _PATH, _point)
    except UsageError as e:
        raise UsageError(f"{e}, or give the safe point itself with --gc-safe-point") from None


def _point(document: object) -> int:
    point = document.get("gc_safe_point") if isinstance(document, dict) else None
    if not isinstance(point, int) or isinstance(point, bool) or not 0 <= point < 1 << 64:
        raise ValueError("the answer holds no gc_safe_point; is this PD?")
    return point
