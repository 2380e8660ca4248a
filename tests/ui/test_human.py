import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.ui.human import format_count, format_duration, format_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (136_524_595, "130.2 MiB"),
        (5 * 1024**4, "5.0 TiB"),
        (10_000 * 1024**6, "10000.0 EiB"),
    ],
)
def test_size_has_a_binary_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 70))
def test_size_never_shows_a_full_next_unit(size: int) -> None:
    number, unit = format_size(size).split()
    assert float(number) < 1024 or unit == "EiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.4, "0s"),
        (45, "45s"),
        (59.6, "1m00s"),
        (130, "2m10s"),
        (3720, "1h02m"),
        (86_400 * 3 + 3600 * 4, "3d04h"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_count_is_grouped_and_agrees_with_its_noun() -> None:
    assert format_count(1_234_567) == "1,234,567"
    assert format_count(1, "region") == "1 region"
    assert format_count(2, "region") == "2 regions"
    assert format_count(0, "entry", "entries") == "0 entries"
