"""Every broken set-up that the doctor knows, as a person would have it, and the same set-up with the fix applied."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from amr_pipeline.assets import doctor
from amr_pipeline.assets.deployment import deployment_from_environment, study_of
from amr_pipeline.assets.doctor import Check, Doctor, carried_out, models_of
from amr_pipeline.engines import listener_check
from amr_pipeline.report.findings import Finding, broken, findings_text, is_broken, ok
from amr_pipeline_tests.assets.imported_world import ImportedWorld

REPOSITORY = Path(__file__).parent.parent.parent
CANARY = "canary-0123456789"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that others run on this machine are none of these tests, and S3 is asked as somebody."""
    monkeypatch.setattr(listener_check, "listeners", lambda proc: iter(()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, CANARY)


@dataclass(frozen=True)
class SetUp:
    """An environment that is well, to be broken in one place."""

    world: ImportedWorld
    closed: int

    @property
    def environ(self) -> dict[str, str]:
        home = self.world.folder / "home"
        return {"AMR_STUDY": str(self.world.file), "AMR_HOME": str(home), "DAGSTER_HOME": str(home / "dagster_home")}

    def looked(self, **changed: str) -> dict[str, Finding]:
        """The worst finding of each check."""
        found: dict[str, Finding] = {}
        order = ["ok", "warning", "broken"]
        for one in sorted(Doctor(self.environ | changed).findings(), key=lambda one: order.index(one.level)):
            found[one.check] = one
        return found


@pytest.fixture
def well(world: ImportedWorld, free_port: int, monkeypatch: pytest.MonkeyPatch) -> SetUp:
    monkeypatch.setattr(doctor, "crowd", lambda: 30.0)  # what is found counts, and not how soon
    made = SetUp(world, free_port)
    home = Path(made.environ["DAGSTER_HOME"])
    home.mkdir(parents=True)
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    return made


def test_a_deployment_that_is_well_has_no_broken_finding(well: SetUp):
    found = well.looked()
    assert [one for one in found.values() if one.level == "broken"] == []
    assert {"variables", "home", "study", "storage", "clock", "mlflow", "dagster", "ray"} <= set(found)
    assert {"listeners", "disk", "memory", "sandbox", "compiler", "models"} <= set(found)


def postgres_at(well: SetUp, port: int) -> dict[str, str]:
    """The instance of a server deployment, whose database is at a port of this machine."""
    settings = yaml.safe_load((REPOSITORY / "docker" / "dagster.yaml").read_text())
    settings["storage"]["custom"]["config"]["postgres_db"]["port"] = port
    (Path(well.environ["DAGSTER_HOME"]) / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return {"AMR_POSTGRES_HOST": "127.0.0.1", "AMR_POSTGRES_USER": "amr", "AMR_POSTGRES_PASSWORD": CANARY}


BROKEN: dict[str, tuple[str, Callable[[SetUp], dict[str, str]], str]] = {
    "a home below a file": ("home", lambda one: {"AMR_HOME": str(one.world.file / "home")}, "AMR_HOME"),
    "tables below a file": ("storage", lambda one: {"AMR_STORAGE": str(one.world.file / "t")}, "AMR_STORAGE"),
    "an S3 store that is down": (
        "storage",
        lambda one: {"AMR_STORAGE": "s3://amr/tables", "AMR_S3_ENDPOINT": f"http://127.0.0.1:{one.closed}"},
        "AMR_S3_ENDPOINT",
    ),
    "a tracking server that is down": (
        "mlflow",
        lambda one: {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{one.closed}"},
        "MLFLOW_TRACKING_URI",
    ),
    "a Dagster home that is not there": ("dagster", lambda one: {"DAGSTER_HOME": "/none/here"}, "mkdir -p /none/here"),
    "a database that is down": ("postgres", lambda one: postgres_at(one, one.closed), "AMR_POSTGRES_HOST"),
    "a variable of the instance that is not set": (
        "postgres",
        lambda one: {
            name: value for name, value in postgres_at(one, one.closed).items() if name != "AMR_POSTGRES_PASSWORD"
        },
        "export AMR_POSTGRES_PASSWORD",
    ),
    "a default password": (
        "postgres password",
        lambda one: {**postgres_at(one, one.closed), "AMR_POSTGRES_PASSWORD": "postgres"},
        "AMR_POSTGRES_PASSWORD",
    ),
    "a study that there is not": ("study", lambda one: {"AMR_STUDY": "micor"}, "AMR_STUDY=micro"),
    "a value that cannot be used": ("variables", lambda one: {"AMR_MAX_ENGINES": "two"}, "AMR_MAX_ENGINES"),
    "a Ray cluster that is down": (
        "ray",
        lambda one: {"AMR_RAY_ADDRESS": f"ray://127.0.0.1:{one.closed}"},
        "AMR_RAY_ADDRESS",
    ),
    "a server of a distiller that is down": (
        "http far",
        lambda one: {"AMR_HTTP_ENGINES": f"far=http://127.0.0.1:{one.closed}/v1", "AMR_HTTP_KEY_FAR": CANARY},
        "AMR_HTTP_ENGINES=far=",
    ),
    "a key that no header can hold": (
        "http far",
        lambda one: {"AMR_HTTP_ENGINES": f"far=http://127.0.0.1:{one.closed}/v1", "AMR_HTTP_KEY_FAR": f"{CANARY}ü"},
        "AMR_HTTP_KEY_FAR",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_named_and_stops_no_other_check(well: SetUp, name: str):
    check, change, fix = BROKEN[name]
    found = well.looked(**change(well))
    assert (found[check].level, fix in found[check].fix) == ("broken", True), found[check]
    assert {"variables", "home", "storage", "mlflow", "dagster", "ray", "disk", "sandbox", "models"} <= set(found)
    assert CANARY not in findings_text(list(found.values()))


@pytest.fixture
def models() -> Iterator[tuple[int, dict[str, object]]]:
    """A port where the list of models is served, and the list."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    told: dict[str, object] = {"data": [{"id": "one"}]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing to say."""

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield listener.server_port, told
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_a_distiller_without_an_address_is_broken_until_it_has_one(well: SetUp, models: tuple[int, dict[str, object]]):
    well.world.change(
        'max_model_len=1, engine="imported",',
        'max_model_len=9, engine="http" if name == "one" else "imported",',
    )
    well.world.change(
        'reads=JsonLines(path=f"{HERE}/{name}.jsonl"), responses_at=ResponseColumns(response="r", question="q"),',
        'reads=None if name == "one" else JsonLines(path=f"{HERE}/{name}.jsonl"), responses_at=None if name == "one" else ResponseColumns(response="r", question="q"),',
    )
    found = well.looked()["http one"]
    assert (found.level, found.found) == ("broken", "nothing says where its server is")
    assert found.fix.startswith("AMR_HTTP_ENGINES=one=")
    assert "AMR_HTTP_KEY_ONE" in found.fix
    address = f"http://127.0.0.1:{models[0]}/v1"
    assert well.looked(AMR_HTTP_ENGINES=f"one={address}")["http one"].level == "ok"
    models[1]["data"] = []
    assert "--served-model-name one" in well.looked(AMR_HTTP_ENGINES=f"one={address}")["http one"].fix
    other = well.looked(AMR_HTTP_ENGINES=f"one={address},onne={address}")["http onne"]
    assert (other.level, "correct the name in AMR_HTTP_ENGINES to one of one" in other.fix) == ("warning", True)


def test_a_study_that_does_not_load_leaves_the_other_checks(well: SetUp):
    well.world.change("NUM_PASSES = 2", "raise SystemExit")
    found = well.looked()
    assert (found["study"].level, "SystemExit" in found["study"].found) == ("broken", True)
    assert found["study"].fix == f"correct {well.world.file}"
    assert (found["models"].level, "not looked at" in found["models"].found) == ("warning", True)
    assert found["storage"].level == "ok"


def test_every_model_of_a_study_is_looked_at():
    micro = study_of(deployment_from_environment({}))
    assert {"distiller weak", "perplexity scorer", "judge of science", "judge of conversation"} <= set(models_of(micro))
    assert {f"training recipe {run.name}" for run in micro.training_recipes if run.starts_from} <= set(models_of(micro))


# ------------------------------------------------------------------------------------------------------------ checks


def test_a_check_that_hangs_is_a_finding_and_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "crowd", lambda: 1.0)
    never = threading.Event()
    check = Check(name="slow", run=lambda: [never.wait() and ok("slow", "")][:0], seconds=0.05)
    (found,) = carried_out(check)
    assert (found.level, found.found) == ("broken", "no answer within 0.05 s")
    (found,) = carried_out(
        Check(name="slow", run=lambda: [ok("slow", str(never.wait()))], seconds=0.05, late="warning")
    )
    assert found.level == "warning"
    never.set()
    assert carried_out(Check(name="quick", run=lambda: [ok("quick", "x")])) == [ok("quick", "x")]


@pytest.mark.parametrize(("load", "found"), [(0.0, "0.02 s"), (2.0, "0.06 s"), (1000.0, "0.2 s")])
def test_a_busy_machine_has_longer_for_a_check(monkeypatch: pytest.MonkeyPatch, load: float, found: str):
    monkeypatch.setattr(os, "getloadavg", lambda: (load * (os.cpu_count() or 1), 0.0, 0.0))
    never = threading.Event()
    (late,) = carried_out(Check(name="slow", run=lambda: [ok("slow", str(never.wait()))], seconds=0.02))
    never.set()
    assert late.found == f"no answer within {found}"


def test_an_error_nobody_expected_is_a_finding_and_so_is_one_of_its_own_timeout():
    def failing() -> list[Finding]:
        raise TimeoutError("of the check's own")

    (found,) = carried_out(Check(name="odd", run=failing))
    assert (found.level, "TimeoutError: of the check's own" in found.found) == ("broken", True)
    blamed = broken("odd", "told", wanted="w", fix="f")
    assert carried_out(Check(name="odd", run=failing, blame=lambda error: blamed)) == [blamed]


def test_a_missing_package_is_a_finding():
    (found,) = carried_out(Check(name="odd", run=lambda: [], needs=("no_such_package",)))
    assert (found.level, "make install" in found.fix) == ("broken", True)
    assert is_broken([found])


def test_no_secret_of_the_environment_is_in_any_finding(well: SetUp):
    environ = {
        "AMR_HTTP_ENGINES": f"far=http://127.0.0.1:{well.closed}/v1",
        "AMR_HTTP_KEY_FAR": CANARY,
        "AMR_HTTP_KEY_FARR": CANARY,
        "MLFLOW_TRACKING_URI": f"http://user:{CANARY}@127.0.0.1:{well.closed}",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AMR_STORAGE": f"s3://amr:{CANARY}@bucket/tables",
        "AMR_S3_ENDPOINT": f"http://user:{CANARY}@127.0.0.1:{well.closed}",
        **postgres_at(well, well.closed),
    }
    found = list(Doctor(well.environ | environ).findings())
    assert len(found) > 10
    assert CANARY not in findings_text(found)
    assert CANARY not in json.dumps([str(one) for one in found])


def test_runs_with_machines_of_their_own_are_looked_at_with_their_memory(world: ImportedWorld, tmp_path: Path):
    environ = {"AMR_STUDY": "micro", "AMR_HOME": str(tmp_path / "home"), "DAGSTER_HOME": str(tmp_path / "none")}
    looks = Doctor(environ, run_memory=2**30)
    found = {one.check: one for one in looks.findings()}
    assert (found["memory"].level, found["memory"].found) == ("broken", "1.0 GiB in a run")
