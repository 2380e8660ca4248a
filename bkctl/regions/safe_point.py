"""The GC safe point of a cluster, from PD's HTTP API.

    GET <pd>/pd/api/v1/gc/safepoint
    {"service_gc_safe_points": [...], "gc_safe_point": 440000000000000000}

Versions that a newer one at or before the safe point replaced, and deletes at or before it, may be
gone from the stores. Source: PD's `serviceGCSafepointHandler`.
"""

from __future__ import annotations

import json

import requests

from bkctl.errors import UsageError

_PATH = "/pd/api/v1/gc/safepoint"
_TIMEOUT_SECONDS = (3.0, 10.0)
_MAX_ANSWER = 4 << 20


def fetch_gc_safe_point(urls: str) -> int:
    """Ask PD for the safe point, a TSO; `urls` are one or more, separated by commas.

    They are tried in turn. Raises UsageError, which says what the last one answered.
    """
    endpoints = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
    problem = f"--pd {urls!a} names no PD; give a URL like http://10.0.0.1:2379"
    for endpoint in endpoints:
        if not endpoint.startswith(("http://", "https://")):
            endpoint = f"http://{endpoint}"
        try:
            return _fetch(endpoint)
        except requests.RequestException as e:
            problem = f"{endpoint}: PD does not answer ({type(e).__name__})"
        except ValueError as e:
            problem = f"{endpoint}: {e}"
    raise UsageError(f"{problem}; check --pd, or give the safe point itself with --gc-safe-point")


def _fetch(endpoint: str) -> int:
    with requests.get(
        endpoint + _PATH, timeout=_TIMEOUT_SECONDS, stream=True, allow_redirects=True
    ) as answer:
        if answer.status_code != 200:
            raise ValueError(f"PD answers HTTP {answer.status_code}")
        content = answer.raw.read(_MAX_ANSWER, decode_content=True)
    try:
        point = json.loads(content)["gc_safe_point"]
    except (ValueError, KeyError, TypeError, RecursionError):
        point = None
    if not isinstance(point, int) or isinstance(point, bool) or not 0 <= point < 1 << 64:
        raise ValueError("the answer holds no gc_safe_point; is this PD?")
    return point
