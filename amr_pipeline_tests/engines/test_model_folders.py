from pathlib import Path

import pytest

from amr_pipeline.engines.model_folders import WrongModelError, folder_digest, model_address
from amr_pipeline.studies.micro import REVISIONS, WEIGHTS


@pytest.mark.parametrize("name", sorted(REVISIONS))
def test_shipped_weights_are_what_the_study_pins(name: str):
    folder, revision = model_address(WEIGHTS + name, REVISIONS[name])
    assert Path(folder).is_dir()
    assert revision is None


def test_altered_folders_and_unpinned_hub_models_are_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    digest = folder_digest(tmp_path)
    assert model_address(str(tmp_path), digest)[0] == str(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(WrongModelError, match="digest"):
        model_address(str(tmp_path), digest)
    with pytest.raises(WrongModelError, match="40-digit"):
        model_address("someone/model", "main")
    with pytest.raises(WrongModelError, match="no model files"):
        folder_digest(tmp_path / "none")


def test_all_weights_together_are_small():
    folder = Path(model_address(WEIGHTS + "weak", None)[0]).parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 8e6
