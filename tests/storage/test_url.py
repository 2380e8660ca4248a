from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import UsageError
from bkctl.storage.local import LocalStorage
from bkctl.storage.noop import NoopStorage
from bkctl.storage.url import StorageSpec, open_storage, parse_storage


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("local:///backups/tikv", "/backups/tikv"),
        ("file:///backups/tikv/", "/backups/tikv"),
        ("file://localhost/backups", "/backups"),
        ("local:///a%20b%23c", "/a b#c"),
        ("/backups/a?b=c#d%20", "/backups/a?b=c#d%20"),
    ],
)
def test_local_urls_and_paths_give_a_directory(url: str, path: str) -> None:
    assert parse_storage(url) == StorageSpec("local", path=path)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_storage("a/b").path == str(tmp_path / "a/b")
    assert parse_storage("./s3:x").path == str(tmp_path / "s3:x")


def test_cloud_urls_give_bucket_prefix_and_options() -> None:
    spec = parse_storage("gs://my-bucket/some/prefix/?storage_class=NEARLINE&endpoint=http://h:1/x")
    assert (spec.scheme, spec.bucket, spec.prefix) == ("gcs", "my-bucket", "some/prefix")
    assert spec.option("storage-class") == "NEARLINE"
    assert spec.option("endpoint") == "http://h:1/x"
    assert spec.option("credentials-file") is None
    assert parse_storage("s3://bucket") == StorageSpec("s3", bucket="bucket")


def test_a_spec_can_be_pickled() -> None:
    spec = parse_storage("s3://bucket/p?access-key=AK&secret-access-key=SK")
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/p?access-key=HIDDEN&secret-access-key=HIDDEN&session-token=HIDDEN",
        "gcs://bucket/p?credentials-file=HIDDEN",
        "gcs://bucket/p?credentials_file=HIDDEN%26x%3bHIDDEN",
        "s3://bucket?endpoint=https://user:HIDDEN@host/",
    ],
)
def test_secrets_do_not_show(url: str) -> None:
    spec = parse_storage(url)
    for text in (spec.display, str(spec), repr(spec), f"{spec}", f"{[spec]}"):
        assert "HIDDEN" not in text
        assert "***" in text
        assert "://bucket" in text


@pytest.mark.parametrize(
    "url",
    [
        "s3://AK:HIDDEN@bucket/p",
        "s3://AK:HIDDEN/HIDDEN@bucket/p",
        "s3://AK:HID?HIDDEN@bucket/p",
        "s3://AK:HID#HIDDEN@bucket/p",
        "s3:/AK:HIDDEN@bucket/p",
        "ftp://user:HIDDEN@host/p?token=HIDDEN",
        "s3://bucket/p?passwd=HIDDEN",
        "s3://bucket/p?access-key=HIDDEN&access_key=HIDDEN",
        "s3://bucket/p#access-key=HIDDEN",
        "s3://[bucket/p?access-key=HIDDEN",
        "s3://bucket/\n?access-key=HIDDEN",
        "gcs://bucket/p?credentials-file=HIDDEN%0a",
    ],
)
def test_secrets_do_not_show_in_refusals(url: str) -> None:
    with pytest.raises(UsageError) as e:
        parse_storage(url)
    assert "HIDDEN" not in str(e.value)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "is empty"),
        ("ftp://host/p", r"unknown scheme; known are .*gcs://.*noop://"),
        ("local://backups", "three slashes"),
        ("local://", "names no directory"),
        ("local:/backups", "two slashes"),
        ("local:///b?x=1", "unknown option 'x'; known are: none"),
        (
            "gcs://bucket/p?bogus=1",
            "unknown option 'bogus'; known are: chunk-size, cred",
        ),
        ("s3://bucket/p?region=a&region=b", "region twice"),
        ("gcs:///p", "no valid bucket"),
        ("gcs://bucket:80/p", "no valid bucket"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/a/../b", "prefix"),
        ("local:///a%00b", "unprintable"),
        ("local:///a%ffb", "no valid URL"),
        ("local:///a#b", "%23"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_storage(url)


@given(st.text() | st.builds("{}://{}".format, st.sampled_from(["s3", "gcs", "local"]), st.text()))
def test_any_text_is_parsed_or_refused_on_one_line(url: str) -> None:
    try:
        text = parse_storage(url).display
    except UsageError as e:
        text = str(e)
    assert text.isprintable()


def test_local_and_noop_are_opened(tmp_path: Path) -> None:
    storage = open_storage(parse_storage(str(tmp_path)))
    assert isinstance(storage, LocalStorage)
    assert storage.url == f"local://{tmp_path}"
    assert isinstance(open_storage(parse_storage("noop://")), NoopStorage)


def test_a_kind_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bkctl.storage.gcs", "bkctl.storage.s3"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"s3:// is not available .*available are local, noop$"):
        open_storage(parse_storage("s3://bucket/p?access-key=x"))


def test_a_backend_is_found_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[StorageSpec] = []

    def open_recorded(spec: StorageSpec) -> NoopStorage:
        opened.append(spec)
        return NoopStorage()

    backend = ModuleType("bkctl.storage.gcs")
    backend.open_storage = open_recorded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bkctl.storage.gcs", backend)
    spec = parse_storage("gcs://bucket/p")
    assert isinstance(open_storage(spec), NoopStorage)
    assert opened == [spec]
