"""A window of a file's keys, rewritten: exactly the records in it, with nothing else changed."""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError
from bkctl.sst.filter import write_window
from bkctl.sst.reader import SstReader
from bkctl.sst.source import FileReader
from bkctl.sst.writer import Compression, SstWriter

KEYS = [b"z%05d" % number for number in range(3000)]


def write(path: Path, keys: list[bytes], codec: str = "zstd") -> None:
    writer = SstWriter(path, Compression(codec))
    writer.write(keys, [key * 4 for key in keys])
    writer.finish()


def window(path: Path, lower: bytes, upper: bytes) -> Path | None:
    out = path.with_suffix(".part")
    out.unlink(missing_ok=True)
    with FileReader(path) as reader:
        written = write_window(reader, path.name, out, lower, upper)
    assert out.exists() == (written is not None)
    return out if written else None


def read(path: Path | None) -> list[tuple[bytes, bytes]]:
    if path is None:
        return []
    with FileReader(path) as reader:
        return list(SstReader(reader, path.name).entries())


@given(st.integers(0, 3100), st.integers(0, 3100), st.booleans())
def test_the_records_of_the_window_and_no_others(first: int, last: int, between: bool) -> None:
    lower, upper = b"z%05d" % min(first, last), b"z%05d" % max(first, last)
    if between:
        lower += b"\0"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.sst"
        write(path, KEYS)
        expected = KEYS[bisect_left(KEYS, lower) : bisect_left(KEYS, upper)]
        assert read(window(path, lower, upper)) == [(key, key * 4) for key in expected]


@pytest.mark.parametrize("codec", ["zstd", "lz4", "snappy", "none"])
def test_the_codec_and_the_format_stay(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "f.sst"
    write(path, KEYS, codec)
    part = window(path, KEYS[10], KEYS[2000])
    assert part is not None
    with FileReader(path) as before, FileReader(part) as after:
        old, new = SstReader(before, "f"), SstReader(after, "p")
        assert new.properties.compression_name == old.properties.compression_name
        assert new.footer.format_version == 5


def test_damage_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.sst"
    write(path, KEYS, "none")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"f\.sst: at offset"):
        window(path, KEYS[0], KEYS[-1])
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.sst"]


def test_it_can_be_stopped(tmp_path: Path) -> None:
    path, out = tmp_path / "f.sst", tmp_path / "out"
    write(path, KEYS)

    def stop() -> None:
        raise KeyboardInterrupt

    with FileReader(path) as reader, pytest.raises(KeyboardInterrupt):
        write_window(reader, "f", out, b"", b"{", stop)
    assert not out.exists()
