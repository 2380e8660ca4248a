"""What a part of a backup records of its store: who it is, and where each region's log stands.

    <backup>/parts/store-4.state
        SHA-256 of the rest, 64 hexadecimal digits | newline |
        {"format": 1, "store_id", "cluster_id", "api_version", "is_live", "pinned_at", "host", "db",
         "settings", "regions": [{"id", "state", "role", "conf_ver", "version", "start_key",
          "end_key", "voters", "outgoing", "peers", "applied", "applied_to", "commit", "last_index",
          "last_term", "term", "entries", "size", "completeness", "trouble", "merge_target",
          "decided"}...]}

`pinned_at` is the machine's clock right before the store was pinned, in milliseconds since 1970.
`settings` is the SHA-256 of those that the backup was begun with. Keys are encoded ones, in
hexadecimal; `voters` and `outgoing` are stores' ids with spaces between them, `peers` and
`merge_target` pairs of numbers with a colon. `decided` is the conf_ver of the peers who decided
that all of the log counts (`bkctl.cluster.election`), null where nobody did.

Anyone may have written such an object: it is read within bounds, and each field as what it must be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bkctl.archive.fields import Fields
from bkctl.errors import CorruptionError
from bkctl.raft.standing import Completeness, Standing
from bkctl.regions.local_state import PeerState, encode_region_local_state, region_state_key
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.storage.stored import StoredObject
from bkctl.store.ident import API_NAMES, StoreIdent

MAX_STATE_BYTES = 1 << 30
_FORMAT = 1
_DIGEST_SIZE = 65
_MAX_TEXT = 4096
_MAX_KEY = 32 << 10
_STATES = frozenset(
    ("normal", "applying", "tombstone", "merging", "unavailable", "absent", "unknown")
)
_ROLES = frozenset(
    ("none", "witness", "unknown", "voter", "learner", "incoming voter", "demoting voter")
)
_COMPLETENESS = frozenset(each.value for each in Completeness)

AsOf = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A store as its part has recorded it; `ident` and `region_records` are as of that.

    `pinned_ms` is in milliseconds since 1970, by the clock of `host`; `decided` is by region.
    """

    ident: StoreIdent
    standings: tuple[Standing, ...]
    decided: Mapping[int, int]
    is_live: bool
    pinned_ms: int
    settings: str
    host: str = ""
    db: str = ""
    by_region: Mapping[int, Standing] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        found = {standing.region_id: standing for standing in self.standings}
        object.__setattr__(self, "by_region", found)

    @property
    def store_id(self) -> int:
        """The store's id."""
        return self.ident.store_id

    def region_records(self) -> Iterator[tuple[bytes, bytes]]:
        """See `bkctl.cluster.regions.RecordSource`; roles are not told."""
        for standing in self.standings:
            if standing.has_data:
                epoch = RegionEpoch(standing.conf_ver, standing.version)
                peers = tuple(Peer(peer, store) for store, peer in standing.peer_ids)
                region = Region(
                    *(standing.region_id, standing.start_key, standing.end_key, epoch, peers)
                )
                record = encode_region_local_state(PeerState.NORMAL, region)
                yield region_state_key(standing.region_id), record

    def as_of(self, region_id: int) -> AsOf:
        """What tells the region's data here from the same at another moment; empty for none.

        A log's last term and index stand for all of it.
        """
        standing = self.by_region.get(region_id)
        if standing is None:
            return ()
        return (
            *(standing.last_term, standing.last_index, standing.applied_to),
            *(standing.conf_ver, standing.version),
        )

    def encode(self) -> bytes:
        """The object's content."""
        document = {
            "format": _FORMAT,
            "store_id": self.ident.store_id,
            "cluster_id": self.ident.cluster_id,
            "api_version": self.ident.api_version,
            "is_live": self.is_live,
            "pinned_at": self.pinned_ms,
            "host": self.host[:_MAX_TEXT],
            "db": self.db[:_MAX_TEXT],
            "settings": self.settings,
            "regions": [_region(each, self.decided) for each in self.standings],
        }
        data = json.dumps(document).encode()
        return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def settings_digest(settings: object) -> str:
    """What stands in a state for the settings that its backup was begun with."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_digest(stored: StoredObject, where: str) -> bytes:
    """What a state begins with, which tells it from any other; CorruptionError if it is cut."""
    if stored.size < _DIGEST_SIZE:
        raise CorruptionError(f"{where}: is cut short")
    return stored.part(0, _DIGEST_SIZE).take(_DIGEST_SIZE)


def read_state(stored: StoredObject, where: str) -> State:
    """Read a state; `where` says in errors what it is. Raises CorruptionError."""
    known = read_digest(stored, where)
    digest = hashlib.sha256()
    body = stored.part(_DIGEST_SIZE, stored.size)
    while piece := bytes(body.peek()):
        digest.update(piece)
        body.skip(len(piece))
    if known != digest.hexdigest().encode() + b"\n":
        raise CorruptionError(f"{where}: is damaged (its checksum is wrong)")
    fields = Fields.read(stored.part(_DIGEST_SIZE, stored.size), where, stored.size)
    if (version := fields.count("format")) != _FORMAT:
        raise CorruptionError(f"{where}: format {version} is not known; use a newer bkctl")
    if (api_version := fields.count("api_version")) not in API_NAMES:
        raise CorruptionError(f"{where}: API version {api_version} is not known")
    decided: dict[int, int] = {}
    standings: dict[int, Standing] = {}
    for entry in fields.objects("regions"):
        standing = _standing(entry, where)
        standings[standing.region_id] = standing
        if (conf_ver := entry.optional_count("decided")) is not None:
            decided[standing.region_id] = conf_ver
    return State(
        StoreIdent(fields.count("cluster_id"), fields.count("store_id"), api_version),
        tuple(standings.values()),
        decided,
        fields.flag("is_live"),
        fields.count("pinned_at"),
        _text(fields, "settings", where),
        _text(fields, "host", where),
        _text(fields, "db", where),
    )


def _region(standing: Standing, decided: Mapping[int, int]) -> dict[str, object]:
    return {
        "id": standing.region_id,
        "state": standing.state,
        "role": standing.role,
        "conf_ver": standing.conf_ver,
        "version": standing.version,
        "start_key": standing.start_key.hex(),
        "end_key": standing.end_key.hex(),
        "voters": " ".join(map(str, standing.voters)),
        "outgoing": " ".join(map(str, standing.outgoing)),
        "peers": " ".join(f"{store}:{peer}" for store, peer in standing.peer_ids),
        "applied": standing.applied,
        "applied_to": standing.applied_to,
        "commit": standing.commit,
        "last_index": standing.last_index,
        "last_term": standing.last_term,
        "term": standing.term,
        "entries": standing.entries,
        "size": standing.size,
        "completeness": standing.completeness.value,
        "trouble": standing.trouble[:_MAX_TEXT],
        "merge_target": "{}:{}".format(*standing.merge_target) if standing.merge_target else "",
        "decided": decided.get(standing.region_id),
    }


def _standing(entry: Fields, where: str) -> Standing:
    targets = _pairs(entry, "merge_target", where)
    return Standing(
        region_id=entry.count("id"),
        state=entry.word("state", _STATES),
        role=entry.word("role", _ROLES),
        conf_ver=entry.count("conf_ver"),
        version=entry.count("version"),
        start_key=_key(entry, "start_key", where),
        end_key=_key(entry, "end_key", where),
        voters=_numbers(entry, "voters", where),
        outgoing=_numbers(entry, "outgoing", where),
        applied=entry.count("applied"),
        applied_to=entry.count("applied_to"),
        commit=entry.count("commit"),
        last_index=entry.count("last_index"),
        last_term=entry.count("last_term"),
        term=entry.count("term"),
        entries=entry.count("entries"),
        size=entry.count("size"),
        completeness=Completeness(entry.word("completeness", _COMPLETENESS)),
        trouble=_text(entry, "trouble", where),
        peer_ids=_pairs(entry, "peers", where),
        merge_target=targets[0] if targets else None,
    )


def _text(fields: Fields, name: str, where: str) -> str:
    text = fields.text(name)
    if len(text) > _MAX_TEXT:
        raise CorruptionError(f"{where}: field {name} is too long")
    return text


def _key(fields: Fields, name: str, where: str) -> bytes:
    key = fields.key(name)
    if len(key) > _MAX_KEY:
        raise CorruptionError(f"{where}: field {name} is too long")
    return key


def _numbers(fields: Fields, name: str, where: str) -> tuple[int, ...]:
    return tuple(_number(word, name, where) for word in _text(fields, name, where).split())


def _pairs(fields: Fields, name: str, where: str) -> tuple[tuple[int, int], ...]:
    found = []
    for word in _text(fields, name, where).split():
        first, _, second = word.partition(":")
        found.append((_number(first, name, where), _number(second, name, where)))
    return tuple(found)


def _number(word: str, name: str, where: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 20) or int(word) >= 1 << 64:
        raise CorruptionError(f"{where}: field {name} is not what it must be")
    return int(word)
