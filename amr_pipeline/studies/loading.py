"""Finding a study: by its module name in this package, or by the path of a file of the user's own.

A study file is code that its author runs, like a script; it is never fetched from anywhere.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from amr_pipeline.studies.file_contents import Options, with_digests
from amr_pipeline.studies.study import Study, StudyError

SHIPPED = ("micro", "deepdistill", "imported")
"""Studies that come with the package."""


def load_study(name_or_path: str, parameters: Mapping[str, str], options: Options | None = None) -> Study:
    """The study of a module here (`deepdistill`), or of a `.py` file that a user wrote (`studies/mine.py`).

    The module defines `STUDY`, or, where it takes parameters, `study(parameters)`; `study` wins where both stand.
    Rows that read files carry the digest of what those hold at this moment.

    Args:
        name_or_path: what `AMR_STUDY` says.
        parameters: what a parametrized study is given.
        options: what fsspec needs to reach the deployment's object store, for rows that read from `s3://`.

    Raises:
        StudyError: there is no such study, it defines neither, what it defines is not a `Study`, its rows contradict
            each other, or parameters are given to a study that takes none. Other errors are those of the file.
    """
    is_path = name_or_path.endswith(".py")
    module = _module_at(Path(name_or_path)) if is_path else _module_named(name_or_path)
    make = getattr(module, "study", None)
    if callable(make):
        study = make(parameters)
    elif not hasattr(module, "STUDY"):
        raise StudyError(f"study {name_or_path!r} defines neither STUDY nor study(parameters)")
    elif parameters:
        raise StudyError(
            f"study {name_or_path!r} takes no parameters, found {sorted(parameters)}; unset AMR_STUDY_PARAMETERS"
        )
    else:
        study = module.STUDY
    if not isinstance(study, Study):
        raise StudyError(f"study {name_or_path!r} gives a {type(study).__name__}; wanted a Study")
    return with_digests(study, options)


def _module_named(name: str) -> ModuleType:
    address = f"amr_pipeline.studies.{name}"
    if not name.isidentifier() or importlib.util.find_spec(address) is None:
        raise StudyError(
            f"there is no study {name!r}; wanted one of {', '.join(SHIPPED)}, or the path of a file ending in .py"
        )
    return importlib.import_module(address)


def _module_at(path: Path) -> ModuleType:
    if not path.is_file():
        raise StudyError(f"study file {path} does not exist (looked in {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(f"amr_study_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise StudyError(f"study file {path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
