"""The generated code: made of the .proto files as they are, to serve two majors of protobuf."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bkctl.proto
from bkctl.errors import CorruptionError
from bkctl.proto import encryptionpb_pb2, raft_serverpb_pb2
from bkctl.proto.strict import has_unknown_fields, parse

FOLDER = Path(bkctl.proto.__file__).parent


@pytest.mark.parametrize("source", sorted(FOLDER.glob("*.proto")), ids=lambda path: path.stem)
def test_code_is_generated_for_protobuf_6_and_7(source: Path) -> None:
    code = source.with_name(f"{source.stem}_pb2.py").read_text()
    # What a major version's generator makes runs with that version and the next.
    assert re.search(r"^# Protobuf Python Version: 6\.", code, re.MULTILINE)


def test_a_message_with_maps_and_unknown_fields_is_read() -> None:
    dictionary = encryptionpb_pb2.FileDictionary()
    dictionary.files["db/1.sst"].key_id = 7
    data = dictionary.SerializeToString()
    assert parse(encryptionpb_pb2.FileDictionary, data) == dictionary
    assert not has_unknown_fields(dictionary)
    newer = parse(encryptionpb_pb2.FileDictionary, data + b"\x78\x01")
    assert has_unknown_fields(newer)
    assert newer.files["db/1.sst"].key_id == 7


def test_a_field_of_the_wrong_kind_is_damage_wherever_it_lies() -> None:
    with pytest.raises(CorruptionError, match="conf_ver is no number"):
        parse(raft_serverpb_pb2.RegionLocalState, bytes.fromhex("12042202 0a00"))
    with pytest.raises(CorruptionError, match="peer id is no number"):
        parse(raft_serverpb_pb2.RegionLocalState, bytes.fromhex("12042a02 0a00"))
