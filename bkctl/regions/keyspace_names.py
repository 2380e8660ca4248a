"""The names of keyspaces, which PD alone knows.

    GET <pd>/pd/api/v2/keyspaces/<name>
    {"id": 4242, "name": "orders", "state": "ENABLED", ...}

Source: PD's `LoadKeyspace` handler.
"""

from __future__ import annotations

import re

from bkctl.errors import UsageError
from bkctl.regions.keyspace import MAX_KEYSPACE_ID
from bkctl.regions.pd_server import ask_pd

_PATH = "/pd/api/v2/keyspaces/"
_NAME = re.compile(r"[-A-Za-z0-9_]{1,64}")


def fetch_keyspace_id(urls: str, name: str) -> int:
    """Ask PD for the id of a keyspace; `urls` are one or more, separated by commas.

    They are tried in turn. Raises UsageError, which says what each of them answered.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"--keyspace {name!a} is neither an id from 0 to {MAX_KEYSPACE_ID} nor a name, which "
            "has letters, digits, - and _ only"
        )

    def read(document: object) -> int:
        fields = document if isinstance(document, dict) else {}
        number = fields.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError("the answer holds no id of a keyspace; is this PD?")
        if not 0 <= number <= MAX_KEYSPACE_ID:
            raise ValueError(f"the answer holds the id {number}, which no keyspace has")
        if fields.get("name", name) != name:
            raise ValueError("the answer is about another keyspace")
        return number

    try:
        return ask_pd(urls, _PATH + name, read)
    except UsageError as e:
        raise UsageError(f"--keyspace {name}: {e}, or give the keyspace's id") from None
