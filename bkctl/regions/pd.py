"""Region maps as PD prints them: `pd-ctl region` and `/pd/api/v1/regions`.

    {"count": n, "regions": [region…]}       a bare list of regions is taken too
    region   id · start_key · end_key (hex of the encoded key) · epoch · peers · leader ·
             approximate_size (MiB) · approximate_keys
    epoch    conf_ver · version
    peer     id · store_id · role_name or role (number) · is_witness

id, both keys and epoch must be there. PD prints a leader without ids where it knows none. A map is
read region by region: a million of them are some 500 MB of text, which is never in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bkctl.errors import RegionMapError
from bkctl.files.small import read_pieces
from bkctl.regions.collector import collector_paused
from bkctl.regions.json_stream import Elements, JsonStream
from bkctl.regions.pd_fast import MAX_U64, FastReader, Unusual
from bkctl.regions.region import ROLES, Peer, Peers, Region, RegionEpoch

# Some 500 bytes a region, three times that where it is indented.
_MAX_BYTES = 1 << 32
_ADVICE = "fetch the map again from PD (pd-ctl region)"
# What a region has and nothing in it.
_SIGN = "start_key"


def load(path: Path) -> list[Region]:
    """Read a file of PD's JSON; RegionMapError if it cannot be read or is malformed."""
    try:
        return _read(read_pieces(path, _MAX_BYTES, waits=True), str(path))
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise RegionMapError(
            f"cannot read region map {path}: {reason}; check --region-map"
        ) from None


def parse(text: bytes | str, source: str) -> list[Region]:
    """The regions in PD's JSON, in its order and with its duplicates; `source` is for messages.

    Raises RegionMapError naming the source, the region (its id, or its index from 0 where it has
    none) and the field.
    """
    return _read([text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text], source)


def _read(pieces: Iterable[bytes], source: str) -> list[Region]:
    with collector_paused():
        stream = JsonStream(pieces, source, _ADVICE)
        regions = _regions(stream, source)
        stream.end()
    return regions


def _regions(stream: JsonStream, source: str) -> list[Region]:
    if stream.peek() != "{":
        return _region_list(stream, source)
    regions = None
    for name in stream.members():
        # Of members with one name the last counts, as everywhere in JSON.
        if name == "regions":
            regions = _region_list(stream, source)
        else:
            stream.value()
    if regions is None:
        raise RegionMapError(f'{source}: no "regions" in it; {_ADVICE}')
    return regions


def _region_list(stream: JsonStream, source: str) -> list[Region]:
    if stream.peek() != "[":
        raise RegionMapError(f"{source}: regions: {_shown(stream.value())} is no list; {_ADVICE}")
    reader = FastReader()
    regions: list[Region] = []
    for some in stream.elements(_SIGN):
        if isinstance(some, Elements):
            try:
                regions += reader.read(some.text)
            except Unusual:
                some.refuse()
        else:
            regions.append(_region(some, len(regions), source))
    return regions


def dump(regions: Iterable[Region]) -> str:
    """PD's JSON of regions, one a line, keys as upper-case hex; `parse` gives the same regions."""
    lines = [json.dumps(_as_json(region), separators=(",", ":")) for region in regions]
    return f'{{"count":{len(lines)},"regions":[\n' + ",\n".join(lines) + "\n]}\n"


def _as_json(region: Region) -> dict[str, object]:
    document: dict[str, object] = {
        "id": region.id,
        "start_key": region.start_key.hex().upper(),
        "end_key": region.end_key.hex().upper(),
        "epoch": {"conf_ver": region.epoch.conf_ver, "version": region.epoch.version},
        "peers": [_peer_as_json(peer) for peer in region.peers],
    }
    if region.leader is not None:
        document["leader"] = _peer_as_json(region.leader)
    if region.approximate_size is not None:
        document["approximate_size"] = region.approximate_size
    if region.approximate_keys is not None:
        document["approximate_keys"] = region.approximate_keys
    return document


def _peer_as_json(peer: Peer) -> dict[str, object]:
    document: dict[str, object] = {
        "id": peer.id,
        "store_id": peer.store_id,
        "role": ROLES.index(peer.role),
        "role_name": peer.role,
    }
    if peer.is_witness:
        document["is_witness"] = True
    return document


def _region(entry: object, index: int, source: str) -> Region:
    where = f"{source}: region at index {index}"
    fields = _Fields.of(entry, where, "")
    region_id = fields.number("id", 1)
    fields = _Fields(fields.values, f"{source}: region {region_id}", "")
    start_key, end_key = fields.key("start_key"), fields.key("end_key")
    if end_key and start_key >= end_key:
        raise fields.error("end_key", "is not after start_key")
    epoch = fields.child("epoch")
    return Region(
        region_id,
        start_key,
        end_key,
        RegionEpoch(epoch.number("conf_ver"), epoch.number("version")),
        Peers.of(_peers(fields)),
        _leader(fields),
        fields.optional_number("approximate_size"),
        fields.optional_number("approximate_keys"),
    )


def _peers(fields: _Fields) -> tuple[Peer, ...]:
    entries = fields.values.get("peers")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise fields.error("peers", f"{_shown(entries)} is no list")
    return tuple(
        _peer(_Fields.of(entry, fields.where, f"peers[{number}]"))
        for number, entry in enumerate(entries)
    )


def _leader(fields: _Fields) -> Peer | None:
    if fields.values.get("leader") is None:
        return None
    leader = fields.child("leader")
    if leader.values.get("id", 0) == 0 and leader.values.get("store_id", 0) == 0:
        return None
    return _peer(leader)


def _peer(fields: _Fields) -> Peer:
    return Peer(
        fields.number("id", 1),
        fields.number("store_id", 1),
        _role(fields),
        fields.flag("is_witness"),
    )


def _role(fields: _Fields) -> str:
    name = fields.values.get("role_name")
    field = "role_name" if name is not None else "role"
    role = name if name is not None else fields.values.get("role")
    if role is None:
        # PD before roles: a flag on learners only.
        return "Learner" if fields.flag("is_learner") else "Voter"
    if isinstance(role, str) and role in ROLES:
        return role
    if isinstance(role, int) and not isinstance(role, bool) and 0 <= role < len(ROLES):
        return ROLES[role]
    raise fields.error(field, f"{_shown(role)} is no role; the roles are {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object read field by field; its errors say where it stands and which field is bad."""

    values: dict[str, object]
    where: str
    path: str

    @classmethod
    def of(cls, entry: object, where: str, path: str) -> _Fields:
        if not isinstance(entry, dict):
            at = f"{where}: {path}" if path else where
            raise RegionMapError(f"{at}: {_shown(entry)} is no JSON object; {_ADVICE}")
        return cls(entry, where, path)

    def error(self, field: str, what: str) -> RegionMapError:
        path = f"{self.path}.{field}" if self.path else field
        return RegionMapError(f"{self.where}: {path}: {what}; {_ADVICE}")

    def child(self, field: str) -> _Fields:
        if field not in self.values:
            raise self.error(field, "is missing")
        path = f"{self.path}.{field}" if self.path else field
        return _Fields.of(self.values[field], self.where, path)

    def number(self, field: str, least: int = 0) -> int:
        """An integer from `least` to 2^64-1."""
        value = self.values.get(field)
        if type(value) is int and least <= value <= MAX_U64:
            return value
        if field not in self.values:
            raise self.error(field, "is missing")
        raise self.error(field, f"{_shown(value)} is no integer from {least} to 2^64-1")

    def optional_number(self, field: str) -> int | None:
        return None if self.values.get(field) is None else self.number(field)

    def flag(self, field: str) -> bool:
        value = self.values.get(field)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.error(field, f"{_shown(value)} is neither true nor false")

    def key(self, field: str) -> bytes:
        """An encoded key from hexadecimal of either case."""
        value = self.values.get(field)
        if field not in self.values:
            raise self.error(field, "is missing")
        if not isinstance(value, str):
            raise self.error(field, f"{_shown(value)} is no hexadecimal text")
        try:
            encoded_key = bytes.fromhex(value)
        except ValueError:
            encoded_key = b""
        # fromhex() lets spaces pass.
        if 2 * len(encoded_key) != len(value):
            raise self.error(field, f"{_shown(value)} is no hexadecimal text")
        return encoded_key


def _shown(value: object) -> str:
    """A JSON value for a message: short, on one line, printable everywhere."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = ascii(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
