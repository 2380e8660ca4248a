"""Values as SST files have them: some may be blob indexes, which say where the value lies."""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.codec.strings import I64, ByteStrings, Mask


@dataclass(slots=True)
class StoredValues:
    """Values, or where `is_blob` says so blob indexes; `is_blob` is None where none is one."""

    strings: ByteStrings
    is_blob: Mask | None = None

    def __post_init__(self) -> None:
        if self.is_blob is not None and not self.is_blob.any():
            self.is_blob = None

    def __len__(self) -> int:
        return len(self.strings)

    def slice(self, start: int, stop: int) -> StoredValues:
        """Those at `[start, stop)`."""
        is_blob = None if self.is_blob is None else self.is_blob[start:stop]
        return StoredValues(self.strings.slice(start, stop), is_blob)

    def take(self, index: I64) -> StoredValues:
        """Those at the given positions."""
        is_blob = None if self.is_blob is None else self.is_blob[index]
        return StoredValues(self.strings.take(index), is_blob)
