"""Every check of a deployment in turn: `amr doctor`.

Each check runs on a thread of its own for a few seconds at most, on a busy machine for longer. One that does not end
is a finding and stops no other, and so is an error that nobody expected; imports are not counted, since they say
nothing about a deployment.

Belongs here: which checks there are, how long each may take, what each is given. Does not belong here: the checks.
"""

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import amr_pipeline
from amr_pipeline.assets import variables
from amr_pipeline.assets.deployment import Deployment, http_key, study_of
from amr_pipeline.assets.instance_check import (
    UnsetVariableError,
    check_instance,
    postgres_settings,
    settings_of,
)
from amr_pipeline.assets.settings_check import (
    HOME,
    STUDY,
    VARIABLES,
    check_home,
    check_names,
    check_variables,
    study_problem,
)
from amr_pipeline.engines.machine_load import crowd
from amr_pipeline.report.findings import Finding, Level, broken, ok, warning, without_secrets
from amr_pipeline.studies.study import CodeVerifier, Study

PACKAGE = Path(amr_pipeline.__file__).parent
SECONDS = 10.0
"""Where the machine has nothing else to do; how busy it is, is no fault of a deployment."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        run: looks, and says what it found.
        seconds: after so long it counts as not answering; longer where the machine is busy.
        late: how bad that is.
        needs: modules that are imported before its time begins.
        blame: makes a finding of an error that `run` lets through; None: the check itself is at fault.
    """

    name: str
    run: Callable[[], Iterable[Finding]]
    seconds: float = SECONDS
    late: Level = "broken"
    needs: tuple[str, ...] = ()
    blame: Callable[[BaseException], Finding] | None = None


def carried_out(check: Check) -> list[Finding]:
    """What a check found, or that it did not come to an end, or how it failed."""
    try:
        for name in check.needs:
            importlib.import_module(name)
    except ImportError as error:
        fix = "install this project's packages again: make install"
        return [broken(check.name, f"a package is missing: {error}", wanted="what the locks name", fix=fix)]
    outcome: Future[list[Finding]] = Future()

    def look() -> None:
        try:
            outcome.set_result(list(check.run()))
        except BaseException as error:  # noqa: BLE001 (becomes this check's finding, below)
            outcome.set_exception(error)

    threading.Thread(target=look, name=f"check of {check.name}", daemon=True).start()
    seconds = check.seconds * crowd()
    wait([outcome], timeout=seconds)
    if not outcome.done():
        return [
            Finding(
                check=check.name,
                level=check.late,
                found=f"no answer within {seconds:.3g} s",
                wanted="an answer in that time",
                fix="run amr doctor again; where it stays, look at the network or the disk that it waits for",
            )
        ]
    error = outcome.exception()
    if error is None:
        return outcome.result()
    if check.blame is not None:
        return [check.blame(error)]
    said = f"the check itself failed: {type(error).__name__}: {error}"
    return [broken(check.name, said, wanted="a check that comes to an end", fix="report this line as a bug")]


@dataclass
class Doctor:
    """The checks of one environment, in order; each may use what those before it found.

    Attributes:
        environ: variables of the deployment.
        run_memory: bytes that a run has, where runs are not processes of this machine; None: they are.
        study: what the environment names, once it was loaded; None until then, and where it does not load.
    """

    environ: Mapping[str, str]
    run_memory: int | None = None
    study: Study | None = field(default=None, init=False)
    _deployment: Deployment = field(init=False, repr=False)

    def findings(self) -> Iterator[Finding]:
        """Every finding, without secrets, as soon as its check ended."""
        for check in self._checks():
            yield from without_secrets(carried_out(check), self.environ)

    def _checks(self) -> Iterator[Check]:
        settings = check_variables(self.environ)
        deployment = self._deployment = settings.deployment
        yield Check(name=VARIABLES, run=lambda: settings.findings)
        yield Check(name=HOME, run=lambda: check_home(deployment.home))
        yield Check(name=STUDY, run=self._load, late="warning", blame=lambda error: study_problem(deployment, error))
        yield from self._services(deployment)
        yield from self._machine()
        for name, address in deployment.http_addresses.items():
            yield Check(
                name=f"http {name}",
                run=lambda name=name, address=address: self._http(name, address),
                needs=("amr_pipeline.engines.http_check",),
            )
        yield Check(name="http", run=self._without_address)

    def _services(self, deployment: Deployment) -> Iterator[Check]:
        yield Check(name="storage", run=self._storage, needs=("amr_pipeline.engines.storage_check", "s3fs"))
        yield Check(name="mlflow", run=self._mlflow, needs=("amr_pipeline.engines.mlflow_check",))
        named = self.environ.get("DAGSTER_HOME")
        home = Path(named or deployment.home / "dagster_home").absolute()
        yield Check(name="dagster", run=lambda: check_instance(home, is_named=bool(named)))
        yield Check(
            name="dagster schema",
            run=lambda: self._schema(home),
            needs=("amr_pipeline.assets.schema_check",),
        )
        yield Check(name="postgres", run=lambda: self._postgres(home), needs=("amr_pipeline.engines.postgres_check",))
        # A program of its own asks, and it has its own patience.
        yield Check(name="ray", run=self._ray, seconds=30.0, needs=("amr_pipeline.engines.ray_check",))
        yield Check(name="listeners", run=self._listeners, needs=("amr_pipeline.engines.listener_check",))

    def _machine(self) -> Iterator[Check]:
        yield Check(name="room", run=self._room, needs=("amr_pipeline.engines.machine_check",))
        yield Check(name="sandbox", run=self._sandbox, seconds=30.0, needs=("amr_pipeline.engines.code_sandbox",))
        yield Check(name="models", run=self._models, late="warning", needs=("amr_pipeline.engines.model_check",))

    # ------------------------------------------------------------------------------------- what each check is given

    def _load(self) -> list[Finding]:
        self.study = study_of(self._deployment)
        loads = ok(STUDY, f"{self.study.name}: {len(self.study.distillers)} distillers, {self.study.title}")
        return [loads, *check_names(self._deployment, self.study)]

    def _storage(self) -> list[Finding]:
        from amr_pipeline.engines.storage_check import check_storage

        return check_storage(self._deployment.storage, self._deployment.storage_options)

    def _mlflow(self) -> list[Finding]:
        from amr_pipeline.engines.mlflow_check import check_mlflow

        return check_mlflow(self._deployment.mlflow_uri)

    def _schema(self, home: Path) -> list[Finding]:
        from amr_pipeline.assets.schema_check import check_schema

        return check_schema(home, self.environ)

    def _postgres(self, home: Path) -> list[Finding]:
        from amr_pipeline.engines.postgres_check import Login, check_postgres

        settings = settings_of(home) if (home / "dagster.yaml").is_file() else {}
        if isinstance(settings, str):
            return []  # said by the check of the instance
        try:
            found = postgres_settings(settings, self.environ)
        except UnsetVariableError as error:
            return [
                broken(
                    "postgres",
                    f"{home}/dagster.yaml takes a value from {error}, which is not set",
                    wanted="every variable that it names; Dagster does not start without",
                    fix=f"export {error}=...",
                )
            ]
        if found is None:
            return []
        if not found["port"].isdigit():
            return [
                broken("postgres", f"port is {found['port']!r}", wanted="a number", fix=f"correct {home}/dagster.yaml")
            ]
        login = Login(
            host=found["hostname"],
            port=int(found["port"]),
            user=found["username"],
            database=found["db_name"],
            password=found["password"],
        )
        return check_postgres(login)

    def _ray(self) -> list[Finding]:
        from amr_pipeline.engines.ray_check import check_ray

        return check_ray(self._deployment.ray_address)

    def _listeners(self) -> list[Finding]:
        from amr_pipeline.engines.listener_check import check_listeners, is_in_container

        return check_listeners(in_container=is_in_container())

    def _room(self) -> list[Finding]:
        from amr_pipeline.engines.machine_check import check_room, room_at
        from amr_pipeline.engines.model_check import folder_bytes, folder_of

        home, models = self._deployment.home, {} if self.study is None else models_of(self.study)
        folders = [folder_of(model, PACKAGE) for model in {named["model"] for named in models.values()}]
        weights = [folder_bytes(folder) if folder and folder.is_dir() else 0 for folder in folders]
        # Where a cluster is joined, models take its memory.
        weights = [] if self._deployment.ray_address else weights
        return check_room(
            home, room_at(home, self.run_memory), max_engines=self._deployment.max_engines, weights=weights
        )

    def _sandbox(self) -> list[Finding]:
        from amr_pipeline.engines.machine_check import check_sandbox

        rows = [] if self.study is None else [row for row in self.study.verifiers if isinstance(row, CodeVerifier)]
        return check_sandbox(rows[0].weakest_isolation if rows else None)

    def _models(self) -> list[Finding]:
        from amr_pipeline.engines.model_check import NamedModel, check_models

        if self.study is None:
            wanted, fix = "a study that loads", "correct the study first"
            return [warning("models", "not looked at: the study did not load", wanted=wanted, fix=fix)]
        named = models_of(self.study).items()
        return check_models([NamedModel(row=row, **model) for row, model in named], PACKAGE)

    def _http(self, name: str, address: str) -> list[Finding]:
        from amr_pipeline.engines.http_check import check_http_engine

        variable = variables.key_variable(name)
        try:
            key = http_key(name, self.environ)
        except ValueError as error:
            return [broken(f"http {name}", str(error), wanted="printable ASCII", fix=f"set {variable} again")]
        rows = {} if self.study is None else {row.name: row for row in self.study.distillers if row.engine == "http"}
        finding = check_http_engine(name, address, key, rows[name].model if name in rows else None, variable)
        if self.study is None or name in rows:
            return [finding]
        fix = f"correct the name in AMR_HTTP_ENGINES to one of {', '.join(rows) or 'none'}, or take it out"
        found = f"no distiller of engine 'http' is called {name!r}"
        return [finding, warning(f"http {name}", found, wanted="names of rows", fix=fix)]

    def _without_address(self) -> list[Finding]:
        """Distillers of engine `http` that nothing says where to ask."""
        rows = [] if self.study is None else [row for row in self.study.distillers if row.engine == "http"]
        return [
            broken(
                f"http {row.name}",
                "nothing says where its server is",
                wanted="an address for every distiller of engine 'http'",
                fix=f"AMR_HTTP_ENGINES={row.name}=http(s)://HOST:PORT/v1, and {variables.key_variable(row.name)}",
            )
            for row in rows
            if row.name not in self._deployment.http_addresses
        ]


def models_of(study: Study) -> dict[str, dict[str, Any]]:
    """Every model that a study loads, by what names it: model, revision, max_model_len."""
    from amr_pipeline.engines.embedding_model import HASHED

    rows: dict[str, Any] = {
        f"distiller {row.name}": row for row in study.distillers if row.engine in ("vllm", "transformers")
    }
    if study.quality_rules.perplexity_scorer is not None:
        rows["perplexity scorer"] = study.quality_rules.perplexity_scorer
    for verifier in (*study.verifiers, *(row.verifier for row in study.second_opinions)):
        judge, reward_model = getattr(verifier, "judge", None), getattr(verifier, "reward_model", None)
        if judge is not None:
            rows[f"judge of {verifier.category}"] = judge.scorer
        if reward_model is not None:
            rows[f"reward model of {verifier.category}"] = reward_model
    found = {
        name: {"model": row.model, "revision": row.revision, "max_model_len": row.max_model_len}
        for name, row in rows.items()
    }
    rules = study.query_rules
    if rules.embedding_model != HASHED:
        found["embedding model"] = {"model": rules.embedding_model, "revision": rules.embedding_revision}
    for run in study.training_recipes:
        if run.starts_from is not None:
            found[f"training recipe {run.name}"] = {"model": run.starts_from, "revision": run.revision}
    return found
