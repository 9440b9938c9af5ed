"""Where a row's model is: a folder inside the package, a local folder, or a repository on the hub.

A local folder is identified by the digest of its files; a mismatch is refused before an engine starts. Hub models
need a pinned commit. Code that comes with a model is never run.
"""

import json
from pathlib import Path

import amr_pipeline
from amr_pipeline.fingerprint import files_digest

PACKAGE_PREFIX = "package:"
DIGESTED = ("*.safetensors", "*.json", "*.jinja")


class WrongModelError(ValueError):
    """A model is not what its row says, or its row does not pin it."""


def folder_digest(folder: Path) -> str:
    """Digest of a model folder: weights, settings, tokenizer and chat template."""
    paths = sorted({path for pattern in DIGESTED for path in folder.glob(pattern)})
    if not paths:
        raise WrongModelError(f"{folder} holds no model files; wanted config.json and *.safetensors")
    return files_digest(paths)


def model_address(model: str, revision: str | None) -> tuple[str, str | None]:
    """(path or hub id, hub revision or None) to load, after checking the digest of a local folder.

    `revision` None skips the check for folders made in this run (checkpoints whose digest the caller knows).

    Raises:
        WrongModelError: the folder's digest differs from the row's, or a hub model is not pinned to a commit.
    """
    if model.startswith(PACKAGE_PREFIX):
        folder = Path(amr_pipeline.__file__).parent / model.removeprefix(PACKAGE_PREFIX)
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        if revision is None or len(revision) != 40:
            raise WrongModelError(
                f"{model} is not a folder; a hub model needs revision= a 40-digit commit, found {revision!r}"
            )
        return model, revision
    found = folder_digest(folder)
    if revision is not None and found != revision:
        raise WrongModelError(
            f"{model} has digest {found}, its row says {revision}; restore the files or update the row"
        )
    return str(folder), None


def check_folder(folder: str, max_model_len: int) -> None:
    """Make sure that an engine can start on a local folder; hub models are left to the engine.

    Raises:
        WrongModelError: there are no settings or no safetensors, or the context asked for is longer than the model's.
    """
    path = Path(folder)
    if not path.is_dir():
        return
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise WrongModelError(f"{folder} is not a model; wanted config.json and *.safetensors (pickles are not read)")
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    longest = settings.get("max_position_embeddings")
    # Scaled rotary embeddings reach further than what is written here; then the engine decides.
    scaled = settings.get("rope_scaling") or (settings.get("rope_parameters") or {}).get("rope_type", "default")
    if scaled in (None, "default") and isinstance(longest, int) and max_model_len > longest:
        raise WrongModelError(
            f"{folder} has a context of {longest:,} tokens, its row asks for max_model_len={max_model_len:,}"
        )
