from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.meta import (
    BackupFile,
    BackupMeta,
    RawRange,
    decode_meta,
    encode_meta,
)
from bkctl.archive.meta_walk import MAX_INDEX_DEPTH
from bkctl.errors import CorruptionError, StorageError
from bkctl.proto import backup_pb2

REAL = Path(__file__).parents[3] / "shared" / "br-raw-v5.2.1" / "backupmeta"

U64 = st.integers(0, 2**64 - 1)
FIGURE = st.integers(0, 2**63 - 1)
WORD = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=20)
FILES = st.builds(
    BackupFile,
    name=WORD.map("{}.sst".format),
    sha256=st.just(b"") | st.binary(min_size=32, max_size=32),
    start_key=st.binary(),
    end_key=st.binary(),
    start_version=U64,
    end_version=U64,
    crc64xor=U64,
    total_kvs=FIGURE,
    total_bytes=FIGURE,
    cf=WORD,
    size=FIGURE,
    cipher_iv=st.binary(),
)
METAS = st.builds(
    BackupMeta,
    cluster_id=U64,
    cluster_version=st.text(),
    files=st.lists(FILES, unique_by=lambda file: file.name).map(tuple),
    start_version=U64,
    end_version=U64,
    is_raw_kv=st.booleans(),
    raw_ranges=st.lists(st.builds(RawRange, st.binary(), st.binary(), WORD)).map(tuple),
    api_version=st.integers(0, 2),
    backup_size=FIGURE,
    br_version=st.text(),
    is_txn_kv=st.booleans(),
)


def a_file(name: str = "1_2_3_x_4_write.sst") -> BackupFile:
    return BackupFile(name, bytes(32), b"a", b"b", 0, 7, 1, 2, 3, "write", 4)


def a_meta(*files: BackupFile) -> BackupMeta:
    return BackupMeta(1, "7.5.0", files, 0, 7, br_version="bkctl")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def message_of(meta: BackupMeta) -> backup_pb2.BackupMeta:
    return backup_pb2.BackupMeta.FromString(encode_meta(meta))


def test_a_real_backupmeta_is_read() -> None:
    if not REAL.exists():
        pytest.skip("the real backup br-raw-v5.2.1 is not at hand")
    data = REAL.read_bytes()
    meta = decode_meta(data, "backupmeta")
    assert meta.is_raw_kv
    assert meta.cluster_id == 7017629392171242369
    assert meta.cluster_version == '"5.3.0-alpha"\n'
    assert meta.br_version.startswith("BR\nRelease Version: v5.2.1\n")
    assert meta.raw_ranges == (RawRange(b"test", b"u", "default"),)
    middle = b"test_-009965169116504"
    assert [(file.start_key, file.end_key) for file in meta.files] == [
        (b"test", middle),
        (middle, b"u"),
    ]
    assert [file.size for file in meta.files] == [6122, 6161]
    for file in meta.files:
        # That version recorded what it counted, but no checksum.
        assert (file.total_kvs, file.total_bytes, file.crc64xor) == (500, 42_500, 0)
        assert file.cf == "default"
        assert sha256((REAL.parent / file.name).read_bytes()) == file.sha256
    # What it wrote, no more and no less, is what is written again.
    assert len(encode_meta(meta)) == len(data) == 614
    assert decode_meta(encode_meta(meta), "again") == meta


@given(METAS)
def test_what_is_written_is_read_back(meta: BackupMeta) -> None:
    files = sorted(meta.files, key=lambda file: (file.cf, file.start_key, file.name))
    assert decode_meta(encode_meta(meta), "x") == replace(meta, files=tuple(files))


@given(METAS, st.randoms(use_true_random=False))
def test_bytes_do_not_depend_on_the_order_of_files(meta: BackupMeta, rng: random.Random) -> None:
    shuffled = list(meta.files)
    rng.shuffle(shuffled)
    assert encode_meta(replace(meta, files=tuple(shuffled))) == encode_meta(meta)


def test_it_is_written_as_version_0_without_ddls() -> None:
    message = message_of(a_meta(a_file()))
    assert message.version == 0
    assert message.ddls == b"[]"
    assert len(message.files) == 1


class Objects:
    """Index objects by name, as they stand beside a backupmeta."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def put(self, name: str, node: backup_pb2.MetaFile) -> backup_pb2.File:
        self.content[name] = node.SerializeToString()
        return backup_pb2.File(name=name, sha256=sha256(self.content[name]))

    def read(self, name: str) -> bytes:
        return self.content[name]


def indexed(index: backup_pb2.MetaFile, ranges: backup_pb2.MetaFile | None = None) -> bytes:
    message = backup_pb2.BackupMeta(
        cluster_id=1, version=1, file_index=index, raw_range_index=ranges
    )
    return bytes(message.SerializeToString())


def test_an_index_is_followed_through_its_levels() -> None:
    objects = Objects()
    files = [message_of(a_meta(a_file(f"{number}.sst"))).files[0] for number in range(4)]
    leaf = objects.put("leaf", backup_pb2.MetaFile(data_files=files[2:]))
    node = objects.put("node", backup_pb2.MetaFile(meta_files=[leaf], data_files=files[1:2]))
    ranges = objects.put(
        "ranges",
        backup_pb2.MetaFile(raw_ranges=[backup_pb2.RawRange(start_key=b"a", cf="default")]),
    )
    data = indexed(
        backup_pb2.MetaFile(meta_files=[node], data_files=files[:1]),
        backup_pb2.MetaFile(meta_files=[ranges]),
    )
    meta = decode_meta(data, "x", objects.read)
    assert meta.files == tuple(a_file(f"{number}.sst") for number in range(4))
    assert meta.raw_ranges == (RawRange(b"a", b"", "default"),)


def test_an_index_object_that_differs_from_its_hash_is_corruption() -> None:
    objects = Objects()
    node = objects.put("node", backup_pb2.MetaFile())
    objects.content["node"] = backup_pb2.MetaFile(
        raw_ranges=[backup_pb2.RawRange()]
    ).SerializeToString()
    data = indexed(backup_pb2.MetaFile(meta_files=[node]))
    with pytest.raises(CorruptionError, match=r"x: index object node .*SHA-256"):
        decode_meta(data, "x", objects.read)


def test_an_index_object_without_a_hash_is_taken() -> None:
    objects = Objects()
    objects.put("node", backup_pb2.MetaFile())
    data = indexed(backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="node")]))
    assert decode_meta(data, "x", objects.read).files == ()


def test_an_index_needs_its_objects_and_cannot_be_encrypted() -> None:
    data = indexed(backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="node")]))
    with pytest.raises(CorruptionError, match="node is needed"):
        decode_meta(data, "x")
    data = indexed(
        backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="node", cipher_iv=b"1234")])
    )
    with pytest.raises(CorruptionError, match="node is encrypted"):
        decode_meta(data, "x", lambda name: b"")


def test_what_reading_an_index_object_raises_passes_through() -> None:
    def refuse(name: str) -> bytes:
        raise StorageError(f"{name}: gone")

    data = indexed(backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="node")]))
    with pytest.raises(StorageError, match="node: gone"):
        decode_meta(data, "x", refuse)


def test_an_index_that_goes_in_a_circle_is_refused() -> None:
    circle = backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="node")])
    with pytest.raises(CorruptionError, match="names node twice"):
        decode_meta(indexed(circle), "x", lambda name: bytes(circle.SerializeToString()))


def test_an_index_that_goes_ever_deeper_is_refused() -> None:
    read: list[str] = []

    def deeper(name: str) -> bytes:
        read.append(name)
        node = backup_pb2.MetaFile(meta_files=[backup_pb2.File(name=f"{name}x")])
        return bytes(node.SerializeToString())

    with pytest.raises(CorruptionError, match="levels deep"):
        decode_meta(
            indexed(backup_pb2.MetaFile(meta_files=[backup_pb2.File(name="x")])), "x", deeper
        )
    assert len(read) == MAX_INDEX_DEPTH


def test_an_index_that_grows_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [backup_pb2.File(name=str(number)) for number in range(11)]
    data = indexed(backup_pb2.MetaFile(meta_files=entries))
    # Field 31, unknown to every reader, makes a node of any length.
    padding = b"\xfa\x01\x64" + bytes(100)
    for limit, value in (("MAX_INDEX_OBJECTS", 10), ("MAX_META_BYTES", 1000)):
        with monkeypatch.context() as patch:
            patch.setattr(f"bkctl.archive.meta_walk.{limit}", value)
            with pytest.raises(CorruptionError, match="more than"):
                decode_meta(data, "x", lambda name: padding)
    assert decode_meta(data, "x", lambda name: padding).files == ()


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (replace(a_file(), name="../../etc/passwd"), "is refused"),
        (replace(a_file(), name="/etc/passwd"), "is refused"),
        (replace(a_file(), name=""), "is refused"),
        (replace(a_file(), name="a\x1b[2J"), "is refused"),
        (replace(a_file(), sha256=b"short"), "SHA-256 of 5 bytes"),
        (replace(a_file(), size=2**63), "absurd size"),
        (replace(a_file(), total_kvs=2**63), "absurd record count"),
        (replace(a_file(), total_bytes=2**64 - 1), "absurd byte count"),
        (replace(a_file(), cf="a\nb"), "column family"),
        (replace(a_file(), cf="c" * 65), "column family"),
    ],
)
def test_a_file_that_makes_no_sense_is_corruption_on_one_line(file: BackupFile, why: str) -> None:
    with pytest.raises(CorruptionError, match=why) as e:
        decode_meta(encode_meta(a_meta(file)), "here")
    assert str(e.value).startswith("here: ")
    assert str(e.value).isprintable()


def test_a_file_named_twice_is_corruption() -> None:
    with pytest.raises(CorruptionError, match="twice"):
        decode_meta(encode_meta(a_meta(a_file(), a_file())), "x")


def test_unknown_versions_are_refused() -> None:
    for field in ("version", "api_version"):
        for value in (-1, 3, 2**31 - 1):
            message = backup_pb2.BackupMeta()
            setattr(message, field, value)
            with pytest.raises(CorruptionError, match=f"{value}"):
                decode_meta(message.SerializeToString(), "x")


def test_a_cut_backupmeta_is_refused_or_holds_less() -> None:
    data = encode_meta(a_meta(*(a_file(f"{number}.sst") for number in range(3))))
    for length in range(len(data)):
        try:
            meta = decode_meta(data[:length], "x")
        except CorruptionError:
            continue
        assert meta != decode_meta(data, "x")


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_garbage_is_corruption_and_nothing_else(data: bytes, node: bytes) -> None:
    try:
        decode_meta(data, "x", lambda name: node)
    except CorruptionError as e:
        assert str(e).isprintable()  # noqa: PT017 - garbage may also happen to be a backupmeta


@given(METAS, st.data())
def test_a_changed_backupmeta_is_corruption_or_another(
    meta: BackupMeta, data: st.DataObject
) -> None:
    encoded = bytearray(encode_meta(meta))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position] = data.draw(st.integers(0, 255))
    node = data.draw(st.binary(max_size=50))
    try:
        decode_meta(bytes(encoded), "x", lambda name: node)
    except CorruptionError as e:
        assert str(e).isprintable()  # noqa: PT017 - the change may also leave it readable
