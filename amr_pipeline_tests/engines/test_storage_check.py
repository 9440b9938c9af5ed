"""Broken storage is found and named, and what the finding says to do makes it well."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import s3fs

from amr_pipeline.engines.storage import LocalStorage, Storage, open_storage
from amr_pipeline.engines.storage_check import check_storage
from amr_pipeline.report.findings import Finding
from amr_pipeline_tests.servers import ObjectStore, object_store


def levels(findings: list[Finding]) -> dict[str, str]:
    return {one.check: one.level for one in findings}


WELL = {"storage": "ok", "clock": "ok"}


def test_a_place_that_works_is_left_as_it_was(place: tuple[str, dict[str, object]]):
    root, options = place
    if options:
        written_patiently(root.removeprefix("s3://").split("/")[0], options)
    assert levels(check_storage(root, options)) == WELL
    assert not [name for name in open_storage(root, options).names("") if name]


def test_a_folder_under_a_file_is_broken_until_the_file_is_gone(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (found,) = check_storage(str(tmp_path / "file" / "tables"), {})
    assert (found.level, "Not a directory" in found.found) == ("broken", True)
    assert "AMR_STORAGE" in found.fix
    (tmp_path / "file").unlink()
    assert levels(check_storage(str(tmp_path / "file" / "tables"), {})) == WELL


def test_an_address_of_no_known_kind_is_broken():
    (found,) = check_storage("nonsense://bucket/tables", {})
    assert (found.level, "nonsense" in found.found) == ("broken", True)


@pytest.mark.parametrize(
    ("ahead", "level"), [(30.0, "ok"), (-30.0, "ok"), (300.0, "warning"), (-300.0, "warning"), (1000.0, "broken")]
)
def test_clocks_that_differ_are_found(tmp_path: Path, ahead: float, level: str):
    *_, found = check_storage(str(tmp_path), {}, now=lambda: time.time() + ahead)
    assert (found.check, found.level) == ("clock", level)
    if level != "ok":
        assert ("ahead of" if ahead > 0 else "behind") in found.found
        assert "timedatectl set-ntp true" in found.fix


class Careless(LocalStorage):
    """A store that takes a conditional write for any write, as old object stores do."""

    def create(self, name: str, content: bytes) -> bool:
        self.put(name, content)
        return True


class Refusing(LocalStorage):
    """A store that has not implemented conditional writes."""

    def create(self, name: str, content: bytes) -> bool:
        raise OSError(22, "A header you provided implies functionality that is not implemented: NotImplemented")


@pytest.mark.parametrize("kind", [Careless, Refusing])
def test_a_store_without_conditional_writes_is_broken(tmp_path: Path, kind: type[LocalStorage]):
    def opened(root: str, options: object) -> Storage:
        return kind(Path(root))

    (found,) = check_storage(str(tmp_path), {}, opened=opened)
    assert found.level == "broken"
    assert "If-None-Match" in found.wanted or "must not exist yet" in found.wanted
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    assert levels(check_storage(str(tmp_path), {})) == WELL, "another store, as the fix says"


# -------------------------------------------------------------------------------------------------- a real S3 server


def written_patiently(bucket: str, options: Mapping[str, Any]) -> None:
    """Let the server grow a bucket's first volume, for which it may need longer than a check waits for any answer."""
    patience = {"read_timeout": 600, "connect_timeout": 600}
    files = s3fs.S3FileSystem(**options, config_kwargs=patience, use_listings_cache=False, skip_instance_cache=True)
    files.pipe_file(f"{bucket}/patience", b"anything")
    files.rm_file(f"{bucket}/patience")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server that knows one user."""
    with object_store(tmp_path_factory.mktemp("guarded"), bucket="amr-there") as store:
        written_patiently("amr-there", store.options)
        yield store


@pytest.mark.engines
def test_a_missing_bucket_is_named_and_making_it_is_the_fix(guarded: ObjectStore):
    (found,) = check_storage("s3://amr-new/tables", guarded.options)
    assert (found.level, found.found) == ("broken", "the store has no bucket 'amr-new'")
    assert f"aws s3api create-bucket --bucket amr-new --endpoint-url {guarded.url}" in found.fix
    guarded.make_bucket("amr-new")
    written_patiently("amr-new", guarded.options)
    assert levels(check_storage("s3://amr-new/tables", guarded.options)) == WELL


@pytest.mark.engines
@pytest.mark.parametrize(
    "wrong", [{"secret": "wrong-secret-canary"}, {"key": "nobody", "secret": "wrong-secret-canary"}]
)
def test_wrong_credentials_are_named_without_being_shown(guarded: ObjectStore, wrong: dict[str, str]):
    assert levels(check_storage("s3://amr-there/tables", guarded.options)) == WELL
    (found,) = check_storage("s3://amr-there/tables", {**guarded.options, **wrong})
    assert (found.level, found.check) == ("broken", "storage")
    assert "refuses" in found.found
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in found.fix
    assert "canary" not in str(found)


@pytest.mark.engines
def test_without_credentials_the_variables_are_named(
    guarded: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (found,) = check_storage("s3://amr-there/tables", {"endpoint_url": guarded.url})
    assert (found.level, found.fix) == ("broken", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_an_endpoint_where_nothing_answers_is_named(free_port: int):
    endpoint = f"http://127.0.0.1:{free_port}"
    (found,) = check_storage("s3://amr-there/tables", {"endpoint_url": endpoint, "key": "any", "secret": "any"})
    assert (found.level, found.found) == ("broken", f"nothing answers at {endpoint}")
    assert "AMR_S3_ENDPOINT" in found.fix
