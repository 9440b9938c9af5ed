"""The deployment of `docker/` as processes of a test: the same settings, PostgreSQL, S3, MLflow, Dagster's three.

Belongs here: putting the servers together as the compose file does, and what they have recorded. Does not belong here:
starting a server (`servers`), what must hold.
"""

import io
import json
import os
import re
import shutil
import sys
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psycopg2
import s3fs

from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.study import Study
from amr_pipeline_tests.faulty_store import FaultyStore, faulty_store
from amr_pipeline_tests.servers import (
    PROGRAMS,
    Disk,
    ObjectStore,
    Postgres,
    Program,
    accepts,
    answers,
    free_ports,
    object_store,
    postgres,
)

REPOSITORY = Path(__file__).parent.parent

EAGER_DAEMON = """
import sys
from dagster._daemon import controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 5
from dagster._daemon.cli import main
sys.exit(main())
"""
"""The daemon, which else looks at backfills every half minute and at nothing in between: nine times in a graph."""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A running deployment.

    Attributes:
        study_file: the study, which a test may edit; the code location reads it when it is loaded.
        environment: what every server of it is given, as in the compose file.
        pages, tracking: addresses of Dagster's and MLflow's pages.
        proxy: what stands between the deployment and its objects; None: nothing does.
        instance: Dagster's own record, opened as its servers open it.
    """

    folder: Path
    study_file: Path
    environment: Mapping[str, str]
    database: Postgres
    objects: ObjectStore
    mlflow: Program
    code: Program
    webserver: Program
    daemon: Program
    pages: str
    tracking: str
    proxy: FaultyStore | None
    instance: dg.DagsterInstance

    @property
    def study(self) -> Study:
        """The study as its file is now."""
        return load_study(str(self.study_file), {})

    @cached_property
    def store(self) -> TableStore:
        """The tables, read past any proxy that the deployment itself goes through."""
        return TableStore(self.environment["AMR_STORAGE"], self.objects.options)

    def ask_dagster(self, query: str, variables: Mapping[str, object]) -> dict[str, Any]:
        """What Dagster's web server says to a question in GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.pages}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            found = json.loads(answer.read())
        assert "errors" not in found, found
        return found["data"]

    def recorded(self) -> Iterator[tuple[str, bytes]]:
        """(where, what) of all that it wrote: logs, homes, both databases, every object; tables as their values."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_relative_to(self.folder / "objects"):
                yield str(path), path.read_bytes()
        for database in ("dagster", "mlflow"):
            yield f"database {database}", self.database.dump(database)
        address = self.database.address("dagster").replace("+psycopg2", "")
        with closing(psycopg2.connect(address)) as connection, connection.cursor() as rows:
            rows.execute("select snapshot_id, snapshot_body from snapshots")  # compressed there, resources of runs too
            for name, body in rows.fetchall():
                yield f"snapshot {name}", zlib.decompress(bytes(body))
        files = s3fs.S3FileSystem(**self.objects.options, use_listings_cache=False, skip_instance_cache=True)
        for name in files.find(self.objects.bucket):
            content = files.cat_file(name)
            yield name, content
            if name.endswith(".parquet"):
                yield f"values of {name}", pl.read_parquet(io.BytesIO(content)).write_json().encode()

    def shown(self, secrets: Mapping[str, str]) -> list[str]:
        """Where something that it wrote holds a secret; besides those given, the passwords of its store and database.

        Each kind of place is known to have been read, by words that stand there.
        """
        hidden = {**secrets, "the store's": self.objects.secret, "the database's": self.database.password}
        found, read = [], set[str]()
        for where, content in self.recorded():
            found += [f"{name} in {where}" for name, secret in hidden.items() if secret.encode() in content]
            if any(word in content for word in (b"raw_queries", b"query_id", b"dagster")):
                read.add(where.split()[0] if " " in where else Path(where).suffix)
        assert {"database", "snapshot", "values", ".log"} <= read, read
        return found

    def change(self, before: str, after: str) -> None:
        """Edit the study file, as its author would."""
        text = self.study_file.read_text()
        assert before in text
        self.study_file.write_text(text.replace(before, after))


@contextmanager
def environment_of(variables: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with some variables set, for what reads it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def deployed(
    folder: Path,
    study: str,
    variables: Mapping[str, str] | None = None,
    *,
    has_proxy: bool = False,
    disk: Disk = nullcontext,
) -> Iterator[Deployed]:
    """The whole deployment of a study, until the block ends.

    `variables` go to every server, over those of the compose file; with a proxy, objects are reached through it. The
    database and the objects lie on a disk each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.py").write_text(study)
    with ExitStack() as running:
        database = running.enter_context(postgres(folder / "postgres.log", ["dagster", "mlflow"], disk=disk))
        objects = running.enter_context(object_store(folder / "objects", disk=disk))
        proxy = running.enter_context(faulty_store(objects.url)) if has_proxy else None
        mlflow_port, code_port, pages_port = free_ports(3)
        through = {"AMR_S3_ENDPOINT": proxy.url} if proxy else {}
        environment = _environment(folder, database, objects, f"http://127.0.0.1:{mlflow_port}")
        environment = {**environment, **through, **(variables or {})}
        _lay_out(Path(environment["DAGSTER_HOME"]), code_port)
        mlflow = mlflow_server(folder, mlflow_port, database, objects, environment)
        code, webserver, daemon = _dagster(folder, code_port, pages_port, environment)
        for program in (mlflow, code, webserver, daemon):
            running.callback(_end, program)
        for program in (mlflow, code):
            program.start(wait=False)
        for program in (code, mlflow):
            program.wait()
        for program in (webserver, daemon):
            program.start()
        with environment_of(environment):
            instance = running.enter_context(dg.DagsterInstance.get())
        yield Deployed(
            folder=folder,
            study_file=folder / "study.py",
            environment=environment,
            database=database,
            objects=objects,
            mlflow=mlflow,
            code=code,
            webserver=webserver,
            daemon=daemon,
            pages=f"http://127.0.0.1:{pages_port}",
            tracking=environment["MLFLOW_TRACKING_URI"],
            proxy=proxy,
            instance=instance,
        )


def _end(program: Program) -> None:
    """Kill it where it runs: nobody looks at how it shuts down, for which a busy machine takes long."""
    if program.runs:
        program.kill()


def _environment(folder: Path, database: Postgres, objects: ObjectStore, tracking: str) -> dict[str, str]:
    """What `docker/compose.yaml` gives every service, and what a checkout needs instead of an image."""
    foreign = ("AMR_", "RAY_", "DAGSTER", "AWS", "PYTHON", "MLFLOW")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        **_environment_of_image(),
        "AMR_STUDY": str(folder / "study.py"),
        "AMR_HOME": str(folder / "home"),
        "AMR_STORAGE": f"s3://{objects.bucket}/tables",
        "AMR_S3_ENDPOINT": objects.url,
        "AWS_ACCESS_KEY_ID": objects.key,
        "AWS_SECRET_ACCESS_KEY": objects.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AMR_POSTGRES_HOST": database.host,
        "AMR_POSTGRES_USER": database.user,
        "AMR_POSTGRES_PASSWORD": database.password,
        "MLFLOW_TRACKING_URI": tracking,
        "DAGSTER_HOME": str(folder / "dagster_home"),
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONWARNINGS": "ignore",
    }


def _environment_of_image() -> dict[str, str]:
    """What the image sets for every process of it, paths inside it aside."""
    text = (REPOSITORY / "docker" / "Dockerfile").read_text()
    block = re.search(r"^ENV (PATH=(?:.*\\\n)+.*)$", text, re.MULTILINE)
    assert block is not None
    pairs = (word.split("=", 1) for word in block[1].replace("\\\n", " ").split())
    return {name: value for name, value in pairs if not value.startswith("/")}


def _lay_out(home: Path, code_port: int) -> None:
    """The instance's own file, unchanged, and the workspace with an address in place of a container's name."""
    home.mkdir()
    (home.parent / "home").mkdir()
    shutil.copy(REPOSITORY / "docker" / "dagster.yaml", home / "dagster.yaml")
    workspace = (REPOSITORY / "docker" / "workspace.yaml").read_text()
    assert "host: code" in workspace
    assert "port: 4000" in workspace
    placed = workspace.replace("host: code", "host: 127.0.0.1").replace("port: 4000", f"port: {code_port}")
    (home / "workspace.yaml").write_text(placed)


def mlflow_server(
    folder: Path, port: int, database: Postgres, objects: ObjectStore, environment: Mapping[str, str]
) -> Program:
    """MLflow on PostgreSQL, with artifacts that only it can reach."""
    command = [str(PROGRAMS / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return Program(
        name="MLflow",
        command=[*command, "--artifacts-destination", f"s3://{objects.bucket}/mlflow"],
        environment={
            **environment,
            "MLFLOW_BACKEND_STORE_URI": database.address("mlflow"),  # a command line is seen by everybody
            "AWS_ENDPOINT_URL_S3": objects.url,
        },
        log=folder / "mlflow.log",
        is_ready=lambda: answers(f"http://127.0.0.1:{port}/health"),
    )


def _dagster(
    folder: Path, code_port: int, pages_port: int, environment: Mapping[str, str]
) -> tuple[Program, Program, Program]:
    """The code server, the web server and the daemon."""
    workspace = ["--workspace", str(Path(environment["DAGSTER_HOME"]) / "workspace.yaml")]
    here = ["--host", "127.0.0.1", "--port"]
    location = ["--module-name", "amr_pipeline.definitions", "--location-name", "amr_pipeline"]
    daemon_log = folder / "daemon.log"
    return (
        Program(
            name="code server",
            command=[str(PROGRAMS / "dagster"), "code-server", "start", *here, str(code_port), *location],
            environment=environment,
            log=folder / "code.log",
            is_ready=lambda: accepts("127.0.0.1", code_port),
        ),
        Program(
            name="web server",
            command=[str(PROGRAMS / "dagster-webserver"), *here, str(pages_port), *workspace],
            environment=environment,
            log=folder / "webserver.log",
            is_ready=lambda: answers(f"http://127.0.0.1:{pages_port}/server_info"),
        ),
        Program(
            name="daemon",
            command=[sys.executable, "-c", EAGER_DAEMON, "run", *workspace],
            environment=environment,
            log=daemon_log,
            is_ready=lambda: daemon_log.exists() and "Instance is configured with" in daemon_log.read_text(),
        ),
    )
