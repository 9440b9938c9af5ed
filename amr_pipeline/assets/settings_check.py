"""Whether what a person set can be used: variables, the home, the study.

Belongs here: the deployment's own settings. Does not belong here: what they point to (the checks of `engines`).
"""

import difflib
import os
import re
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from amr_pipeline.assets import variables
from amr_pipeline.assets.deployment import Deployment, deployment_from_environment
from amr_pipeline.report.findings import Finding, broken, ok, warning
from amr_pipeline.studies.loading import SHIPPED
from amr_pipeline.studies.study import Study

VARIABLES, HOME, STUDY = "variables", "home", "study"

ELSEWHERE = {
    **dict.fromkeys(("AMR_POSTGRES_HOST", "AMR_POSTGRES_USER", "AMR_POSTGRES_PASSWORD"), "dagster.yaml of a server"),
    **dict.fromkeys(("AMR_S3_KEY", "AMR_S3_SECRET", "AMR_RAY_TOKEN", "AMR_PROXY_ADDRESS"), "docker/compose.yaml"),
    **dict.fromkeys(("AMR_CONTROL_IMAGE", "AMR_GPU_IMAGE"), "docker/compose.yaml"),
    **dict.fromkeys(("AMR_RUNS_MEMORY", "AMR_WORKER_MEMORY"), "docker/compose.yaml"),
    **dict.fromkeys(("AMR_REAL_DATA", "AMR_SOAK", "AMR_SCREENSHOTS", "AMR_OBSERVATIONS"), "tests"),
}
"""Variables of ours that the deployment itself does not read, and who does."""

_OURS = re.compile(r"\bAMR_[A-Z0-9_]+")
_ALIKE = 0.75
"""How alike two names are for one to be a misspelling of the other, 0 to 1."""


class _Asked(Mapping[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def variables_read() -> set[str]:
    """The variables that a deployment is made from, as its code asks for them."""
    asked = _Asked()
    deployment_from_environment(asked)
    return asked.names


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the variables say, without those that say nothing usable."""

    deployment: Deployment
    findings: list[Finding]


def check_variables(environ: Mapping[str, str]) -> Settings:
    """Read the deployment; a variable that cannot be used is reported and left out, so that all of them show."""
    usable, findings = dict(environ), list[Finding]()
    while True:
        try:
            deployment = deployment_from_environment(usable)
            break
        except ValueError as error:
            culprit = next((name for name in _OURS.findall(str(error)) if usable.get(name)), None)
            if culprit is None:
                raise
            del usable[culprit]
            findings.append(
                broken(
                    VARIABLES,
                    str(error).partition("; wanted")[0],
                    wanted=str(error).partition("; wanted ")[2] or "a value that can be used",
                    fix=f"correct {culprit}, or unset it",
                )
            )
    findings += _unknown(environ, deployment)
    if not findings:
        ours = sorted(name for name in environ if _OURS.fullmatch(name))
        findings.append(ok(VARIABLES, f"{len(ours)} of ours are set: {', '.join(ours) or 'all is default'}"))
    return Settings(deployment=deployment, findings=findings)


def _unknown(environ: Mapping[str, str], deployment: Deployment) -> Iterator[Finding]:
    keys = {variables.key_variable(name) for name in deployment.http_addresses}
    known = variables_read() | set(ELSEWHERE) | keys
    for name in sorted(environ):
        if not name.startswith("AMR_") or name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
        is_key = name.startswith(variables.key_variable(""))
        fix = f"rename it to {nearest[0]}" if nearest else "unset it"
        if is_key and not nearest:
            fix = "name that distiller in AMR_HTTP_ENGINES, or unset it"
        yield warning(
            VARIABLES, f"nothing reads {name}", wanted="the variables of the README's table, spelt as there", fix=fix
        )


def check_home(home: Path) -> list[Finding]:
    """Make the home, and write, sync and delete a file in it."""
    trial = home / f".doctor-{uuid.uuid4().hex}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with trial.open("xb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        trial.unlink()
    except OSError as error:
        return [
            broken(
                HOME,
                f"{home} cannot be written: {error.strerror or error}",
                wanted="a folder of this user",
                fix=f"mkdir -p {home} && chown {os.getuid()} {home}, or set AMR_HOME to a folder that can be written",
            )
        ]
    return [ok(HOME, str(home))]


def check_names(deployment: Deployment, study: Study) -> list[Finding]:
    """A warning for each distiller that a variable names and the study does not have."""
    said: Mapping[str, Iterable[str]] = {
        "AMR_GPU_KINDS": deployment.gpu_kinds,
        "AMR_PRICE_PER_GPU_HOUR": deployment.prices_per_gpu_hour,
        "AMR_TOKENS_PER_GPU_SECOND": deployment.tokens_per_gpu_second,
    }
    known = [row.name for row in study.distillers]
    found = []
    for variable, names in said.items():
        for name in sorted({*names} - {"", *known}):
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
            found.append(
                warning(
                    STUDY,
                    f"{variable} names {name!r}, which study {study.name!r} does not have",
                    wanted=f"a distiller of it: {', '.join(known) or 'it has none'}",
                    fix=f"write {nearest[0]} in {variable}" if nearest else f"take it out of {variable}",
                )
            )
    return found


def study_problem(deployment: Deployment, error: BaseException) -> Finding:
    """What an error says of the study that raised it while it was loaded."""
    file = deployment.study if deployment.study.endswith(".py") else None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if file and frame.filename.endswith(file)]
    where = f" (line {frames[-1].lineno})" if frames else ""
    kind = "" if type(error).__name__ == "StudyError" else f"{type(error).__name__}: "
    nearest = difflib.get_close_matches(deployment.study, SHIPPED, n=1)
    if file is None and deployment.study not in SHIPPED:
        fix = f"AMR_STUDY={nearest[0]}" if nearest else "set AMR_STUDY to one of these, or to the path of your file"
    elif file is None:
        fix = "set AMR_STUDY_PARAMETERS as it says"
    else:
        fix = f"correct {file}" if Path(file).is_file() else "set AMR_STUDY to a file that exists"
    return broken(STUDY, f"{kind}{error}{where}", wanted="a study that loads", fix=fix)
