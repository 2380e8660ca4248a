"""Small scripts in place of the peers, for a PATH on which nothing else is."""

from __future__ import annotations

from pathlib import Path

_LDB = """\
case $1 in --version) echo "ldb, not the real one"; exit;; esac
for option; do
  case $option in
    --db=*) db=${option#--db=};;
    --backup_dir=*) out=${option#--backup_dir=};;
  esac
done
test -s "$db/CURRENT" || { echo "no store in $db" >&2; exit 1; }
: > "$db/written-by-ldb"
/bin/mkdir "$out" && echo all > "$out/files"
"""
_TAR = """\
case $1 in --version) echo "tar, not the real one"; exit;; esac
test -s "$2/CURRENT" && echo all > "$5"
"""


def write_script(path: Path, text: str) -> Path:
    """Make a program of a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def write_directory_peers(folder: Path) -> None:
    """Programs called ldb, tar and zstd that take their command lines and copy nothing."""
    write_script(folder / "ldb", _LDB)
    write_script(folder / "tar", _TAR)
    write_script(folder / "zstd", "")


def write_refscan(folder: Path, full: str, incremental: str) -> Path:
    """A refscan that has found `full` (records, bytes, crc64xor) or, from a start, the other."""
    return write_script(
        folder / "refscan",
        'test -s "$1/CURRENT" && test -s "$1.regions.json" || exit 1\n'
        ': > "$1/written-by-refscan"\n'
        f'case $3 in 0) echo "{full} 1000 0.5";; *) echo "{incremental} 100 0.25";; esac\n',
    )
