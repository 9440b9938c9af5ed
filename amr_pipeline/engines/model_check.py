"""Whether the models that a study's rows name are here, whole, and pinned.

Belongs here: folders and the hub's cache. Does not belong here: loading a model (engines do), or which rows there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from amr_pipeline.engines.model_folders import PACKAGE_PREFIX, WrongModelError, check_folder, model_address
from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK = "models"

MOST_BYTES_HASHED = 2**28
"""A larger folder's digest is not compared here, since reading it takes longer than a look; the engine compares it."""


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model as a row of the study names it.

    Attributes:
        row: what names it, for messages.
        max_model_len: tokens that the row asks its context to have; 0: it does not say.
    """

    row: str
    model: str
    revision: str | None
    max_model_len: int = 0


def check_models(models: Iterable[NamedModel], package: Path) -> list[Finding]:
    """A finding per model that cannot be loaded as its row says; one in all where every model can."""
    found = [(model, _problem(model, package)) for model in models]
    problems = [problem for _, problem in found if problem is not None]
    if problems or not found:
        return problems or [ok(CHECK, "the study loads none")]
    return [ok(CHECK, f"{len(found)} here and pinned: {', '.join(sorted({model.row for model, _ in found}))}")]


def folder_of(model: str, package: Path) -> Path | None:
    """The folder that a row names, whether it is there or not; None for a model on the hub."""
    if model.startswith(PACKAGE_PREFIX):
        return package / model.removeprefix(PACKAGE_PREFIX)
    path = Path(model)
    return path if path.is_absolute() or path.is_dir() or model.startswith(".") else None


def folder_bytes(folder: Path) -> int:
    """What its files take."""
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def _problem(model: NamedModel, package: Path) -> Finding | None:
    folder = folder_of(model.model, package)
    if folder is None:
        return _on_the_hub(model)
    if not folder.is_dir():
        return broken(
            CHECK,
            f"{model.row}: there is no folder {folder}",
            wanted="config.json and *.safetensors in it",
            fix=f"put the model there, or change model= of {model.row}",
        )
    try:
        check_folder(str(folder), model.max_model_len)
        if folder_bytes(folder) <= MOST_BYTES_HASHED:
            model_address(str(folder), model.revision)
    except (WrongModelError, OSError, ValueError) as error:
        return broken(
            CHECK,
            f"{model.row}: {error}",
            wanted=f"the files of revision {model.revision}",
            fix=f"restore the files, or change revision= of {model.row}",
        )
    if model.revision is None:
        return broken(
            CHECK,
            f"{model.row}: the revision of {model.model} is not pinned",
            wanted="revision= the sha256: digest of the folder",
            fix=f"set revision= of {model.row}",
        )
    return None


def _on_the_hub(model: NamedModel) -> Finding | None:
    from huggingface_hub import constants, try_to_load_from_cache

    if model.revision is None or len(model.revision) != 40:
        return broken(
            CHECK,
            f"{model.row}: the revision of {model.model} is {model.revision!r}",
            wanted="a 40-digit commit of the hub, never a branch",
            fix=f"set revision= of {model.row}",
        )
    if isinstance(try_to_load_from_cache(model.model, "config.json", revision=model.revision), str):
        return None
    command = f"hf download {model.model} --revision {model.revision}"
    if constants.HF_HUB_OFFLINE:
        return broken(
            CHECK,
            f"{model.row}: {model.model} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
            wanted="its weights in the hub's cache",
            fix=f"HF_HUB_OFFLINE=0 {command}",
        )
    return warning(
        CHECK,
        f"{model.row}: {model.model} is not in the cache and is fetched when an engine starts",
        wanted="its weights in the hub's cache",
        fix=command,
    )
