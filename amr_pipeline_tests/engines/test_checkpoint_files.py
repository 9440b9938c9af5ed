"""A checkpoint in storage is the one in the table, whole, or it is not used."""

from pathlib import Path

import pytest

from amr_pipeline.engines.checkpoint_files import DamagedCheckpoint, fetch, keep
from amr_pipeline.engines.model_folders import WrongModelError, folder_digest
from amr_pipeline.engines.storage import Storage, open_storage


@pytest.fixture
def files(place: tuple[str, dict[str, object]]) -> Storage:
    return open_storage(*place)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "chat_template.jinja", "optimizer.pt", "run_me.py"):
        (folder / name).write_text(f"what is in {name}")
    return folder


def test_what_was_kept_is_fetched_and_nothing_else_is_kept(files: Storage, model: Path, tmp_path: Path):
    digest = folder_digest(model)
    address = keep(files, "recipe", model, digest)
    assert keep(files, "recipe", model, digest) == address
    assert sorted(files.names(address)) == ["chat_template.jinja", "config.json", "model.safetensors"]
    found = fetch(files, address, digest, tmp_path / "cache")
    assert folder_digest(found) == digest
    assert fetch(files, address, digest, tmp_path / "cache") == found


def test_two_exports_of_one_recipe_do_not_touch_each_other(files: Storage, model: Path, tmp_path: Path):
    first = folder_digest(model)
    addresses = [keep(files, "recipe", model, first)]
    (model / "model.safetensors").write_text("other weights")
    second = folder_digest(model)
    addresses.append(keep(files, "recipe", model, second))
    for address, digest in zip(addresses, (first, second), strict=True):
        assert folder_digest(fetch(files, address, digest, tmp_path / "cache")) == digest


@pytest.mark.parametrize("harm", ["altered", "missing", "added", "everything missing"])
def test_a_damaged_checkpoint_is_refused_and_leaves_nothing(files: Storage, model: Path, tmp_path: Path, harm: str):
    digest = folder_digest(model)
    address, cache = keep(files, "recipe", model, digest), tmp_path / "cache"
    if harm == "altered":
        files.put(f"{address}/model.safetensors", b"what is in model.safetensorz")
    elif harm == "added":
        files.put(f"{address}/more.safetensors", b"")
    else:
        for name in files.names(address) if harm == "everything missing" else ["config.json"]:
            files.remove(f"{address}/{name}")
    with pytest.raises(DamagedCheckpoint, match="restore its files"):
        fetch(files, address, digest, cache)
    assert not cache.exists() or list(cache.iterdir()) == []
    keep(files, "recipe", model, digest)
    if harm != "added":
        assert folder_digest(fetch(files, address, digest, cache)) == digest


def test_a_copy_that_rotted_after_it_was_fetched_is_refused(model: Path, tmp_path: Path):
    files, digest = open_storage(f"memory://{tmp_path.name}"), folder_digest(model)
    address = keep(files, "recipe", model, digest)
    found = fetch(files, address, digest, tmp_path / "cache")
    (found / "model.safetensors").write_text("rotten")
    with pytest.raises(DamagedCheckpoint):
        fetch(files, address, digest, tmp_path / "cache")


def test_an_export_that_changed_since_it_was_written_is_not_kept(files: Storage, model: Path):
    digest = folder_digest(model)
    (model / "config.json").write_text("changed")
    with pytest.raises(WrongModelError, match="materialize checkpoints again"):
        keep(files, "recipe", model, digest)
    assert files.folders("checkpoint_files") == []


def test_of_two_processes_that_fetch_at_once_both_have_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files, digest = open_storage(f"memory://{tmp_path.name}"), folder_digest(model)
    address, cache = keep(files, "recipe", model, digest), tmp_path / "cache"
    download = type(files).download

    def overtaken(self: Storage, name: str, path: Path) -> None:
        monkeypatch.setattr(type(files), "download", download)
        fetch(files, address, digest, cache)
        download(self, name, path)  # type: ignore[arg-type]

    monkeypatch.setattr(type(files), "download", overtaken)
    assert folder_digest(fetch(files, address, digest, cache)) == digest
    assert len(list(cache.iterdir())) == 1
