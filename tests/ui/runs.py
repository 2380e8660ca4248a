"""Ranges and a clock for the tests of progress."""

from bkctl.regions.plan import BackupRange
from bkctl.regions.region import Region, RegionEpoch


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def backup_range(region_id: int, approximate_keys: int | None = None) -> BackupRange:
    start_key, end_key = f"k{region_id:03d}".encode(), f"k{region_id + 1:03d}".encode()
    region = Region(
        region_id, start_key, end_key, RegionEpoch(1, 1), approximate_keys=approximate_keys
    )
    return BackupRange(region, start_key, end_key, is_raw=True)
