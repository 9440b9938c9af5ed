"""Models that are missing, damaged or not pinned are found before an engine is waited for."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from amr_pipeline.engines import model_check
from amr_pipeline.engines.model_check import NamedModel, check_models, folder_bytes, folder_of
from amr_pipeline.engines.model_folders import folder_digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(folder: Path) -> NamedModel:
    """A folder with a model's files, as a row would name it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return NamedModel(row="distiller weak", model=str(folder), revision=folder_digest(folder), max_model_len=64)


def level(*models: NamedModel) -> tuple[str, str, str]:
    (found,) = check_models(models, Path("package"))
    return found.level, found.found, found.fix


def test_a_model_that_is_here_and_pinned_is_well(tmp_path: Path):
    assert level(model(tmp_path / "m")) == ("ok", "1 here and pinned: distiller weak", "")
    assert level()[0] == "ok"
    inside = NamedModel(row="x", model="package:m", revision=folder_digest(tmp_path / "m"))
    assert check_models([inside], tmp_path)[0].level == "ok"


def test_a_missing_folder_is_broken_until_it_is_there(tmp_path: Path):
    gone = NamedModel(row="distiller weak", model=str(tmp_path / "m"), revision="sha256:x")
    assert level(gone)[:2] == ("broken", f"distiller weak: there is no folder {tmp_path / 'm'}")
    assert level(model(tmp_path / "m"))[0] == "ok"


def test_changed_weights_are_broken_until_they_are_restored(tmp_path: Path):
    named = model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"other")
    found = level(named)
    assert (found[0], "its row says" in found[1]) == ("broken", True)
    assert "restore the files" in found[2]
    (tmp_path / "m" / "model.safetensors").write_bytes(b"weights")
    assert level(named)[0] == "ok"


def test_missing_files_and_a_context_that_is_too_long_are_broken(tmp_path: Path):
    named = model(tmp_path / "m")
    long = NamedModel(row="r", model=named.model, revision=named.revision, max_model_len=4096)
    assert "4,096" in level(long)[1]
    (tmp_path / "m" / "model.safetensors").unlink()
    assert (level(named)[0], "is not a model" in level(named)[1]) == ("broken", True)


def test_an_unpinned_folder_is_broken(tmp_path: Path):
    named = model(tmp_path / "m")
    found = level(NamedModel(row="r", model=named.model, revision=None))
    assert (found[0], found[2]) == ("broken", "set revision= of r")


def test_a_large_folder_is_left_to_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(model_check, "MOST_BYTES_HASHED", 10)
    assert level(named)[0] == "ok"


@pytest.mark.parametrize("revision", [None, "main", "0123abc"])
def test_a_branch_of_the_hub_is_not_pinned(revision: str | None):
    found = level(NamedModel(row="r", model="who/what", revision=revision))
    assert (
        found[0],
        "40-digit" in check_models([NamedModel(row="r", model="who/what", revision=revision)], Path())[0].wanted,
    ) == (
        "broken",
        True,
    )


def test_a_hub_model_that_is_not_in_the_cache_is_broken_offline_and_named_online(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    named = NamedModel(row="r", model="who/what", revision=COMMIT)
    command = f"hf download who/what --revision {COMMIT}"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *asked, **named: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert (level(named)[0], level(named)[2]) == ("broken", f"HF_HUB_OFFLINE=0 {command}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert (level(named)[0], level(named)[2]) == ("warning", command)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *asked, **named: str(tmp_path))
    assert level(named)[0] == "ok"


def test_every_model_with_a_problem_has_a_finding_of_its_own(tmp_path: Path):
    well = model(tmp_path / "m")
    found = check_models(
        [well, NamedModel(row="a", model="who/what", revision=None), NamedModel(row="b", model="/none", revision="1")],
        Path(),
    )
    assert [one.found.split(":")[0] for one in found] == ["a", "b"]


def test_folders_are_told_from_models_of_the_hub(tmp_path: Path):
    assert folder_of("package:micro_weights/weak", tmp_path) == tmp_path / "micro_weights/weak"
    assert folder_of(str(tmp_path), tmp_path) == tmp_path
    assert folder_of("./here", tmp_path) == Path("here")
    assert folder_of("who/what", tmp_path) is None
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").mkdir()
    assert folder_bytes(tmp_path) == 3
