"""A keyspace by its id or its name, as a user meets it."""

from __future__ import annotations

import pytest

from tests.commands.console import Outcome, bkctl
from tests.conftest import SampleStore
from tests.regions.fake_pd import answering, fake_pd


def plan(store: SampleStore, *arguments: object) -> Outcome:
    return bkctl(
        "ranges", "--db", store.path, "--region-map", "none", "--raw", "--json", *arguments
    )


def test_a_name_is_as_good_as_an_id(sample_store: SampleStore) -> None:
    by_id = plan(sample_store, "--keyspace", 66)
    assert by_id.code == 0
    with fake_pd(answering(b'{"id": 66, "name": "orders"}')) as pd:
        by_name = plan(sample_store, "--keyspace", "orders", "--pd", pd.address)
    assert (by_name.code, by_name.document) == (0, by_id.document)
    (planned,) = by_id.document["ranges"]
    assert (planned["start_key"], planned["end_key"]) == ("72000042", "72000043")


@pytest.mark.parametrize(
    ("keyspace", "says"),
    [
        ("orders", "is a name, which only PD knows; give --pd URL, or the keyspace's id"),
        ("16777216", "ids are from 0 to 16777215"),
        ("-1", "ids are from 0 to 16777215"),
        ("9" * 10_000, "ids are from 0 to 16777215"),
    ],
)
def test_a_keyspace_that_cannot_be_told_is_refused(
    sample_store: SampleStore, keyspace: str, says: str
) -> None:
    outcome = plan(sample_store, f"--keyspace={keyspace}")
    assert outcome.code == 2
    assert says in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_safe_point_that_is_given_goes_with_a_pd_for_names(sample_store: SampleStore) -> None:
    with fake_pd(answering(b'{"id": 66, "name": "orders"}')) as pd:
        arguments = (
            *("backup", "--db", sample_store.path, "--region-map", "none", "--raw"),
            *("--storage", "noop://", "--keyspace", "orders", "--pd", pd.address),
        )
        assert bkctl(*arguments, "--gc-safe-point", 5).code == 0
        assert pd.paths == ["/pd/api/v2/keyspaces/orders"]
