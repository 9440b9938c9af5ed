import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from amr_pipeline.command_line import app
from amr_pipeline_tests.assets.imported_world import ImportedWorld

HEAVY = ("ray", "torch", "vllm", "dagster", "polars")


def test_help_is_light_and_lists_every_command():
    probe = f"import sys, json; import amr_pipeline.command_line; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    said = CliRunner().invoke(app, ["--help"]).output
    assert all(
        name in said
        for name in (
            *("demo", "status", "forecast", "pools", "backfill", "regrade", "plan", "verify", "audit-import"),
            *("owed", "trace", "doctor", "collect-garbage", "make-micro-weights"),
        )
    )


def test_verify_judges_a_file(tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": 1, "category": "math", "answer": "\\\\boxed{4}", "ground_truth": "4"}\n')
    result = CliRunner().invoke(app, ["verify", str(source), str(target)])
    assert result.exit_code == 0, result.output
    assert json.loads(target.read_text())["verdict"] == "passed"


def test_audit_import_says_what_it_could_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMR_HOME", str(tmp_path))
    for name in ("AMR_STUDY", "AMR_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    filled = tmp_path / "audit.jsonl"
    filled.write_bytes(b'{"response_id": "x", "human_verdict": "passed"}\n\xff\xfe\n')
    result = CliRunner().invoke(app, ["audit-import", str(filled)])
    assert result.exit_code == 1, result.output
    assert "0 verdicts taken, 0 left open, 2 lines rejected" in result.output
    assert "line 1: unknown response_id: 'x'" in result.output
    assert "line 2: not JSON" in result.output


def test_plan_prints_the_papers_numbers():
    result = CliRunner().invoke(app, ["plan", "deepdistill"])
    assert "40,045,728" in result.output


def test_forecast_of_a_world_without_queries_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMR_HOME", str(tmp_path))
    for name in ("AMR_STUDY", "AMR_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, ["forecast", "strong"])
    assert result.exit_code == 0, result.output
    assert "shards have no queries yet" in result.output
    assert "weak" not in result.output
    assert CliRunner().invoke(app, ["forecast", "nobody"]).exit_code == 2


def test_owed_speaks_to_people_and_to_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMR_HOME", str(tmp_path))
    for name in ("AMR_STUDY", "AMR_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    said = CliRunner().invoke(app, ["owed", "responses", "queries"]).output
    assert [line.split(":")[0] for line in said.splitlines() if ":" in line] == ["queries", "responses"]
    assert "never materialized" in said
    document = json.loads(CliRunner().invoke(app, ["owed", "responses", "--json"]).stdout)
    assert document["assets"]["responses"]["owed"] == len(document["owed"]) == 3 * 4
    assert CliRunner().invoke(app, ["owed", "nothing"]).exit_code == 2


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-aws-0123",
    "AMR_HTTP_KEY_ONE": "canary-of-http-0123",
    "AMR_POSTGRES_PASSWORD": "canary-of-postgres-0123",
}


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImportedWorld:
    """A stored response that would repaint the screen, and secrets in the environment; the commands look at both."""
    world = ImportedWorld(tmp_path)
    world.ask("Who \u202efirst?")
    world.answer("one", {"Who \u202efirst?": ["\x1b[2J\x1b]0;owned\x07a\u202eb", "\x9b31mc"]})
    world.answer("two", {})
    world.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses", "verdicts"))
    monkeypatch.setenv("AMR_STUDY", str(world.file))
    monkeypatch.setenv("AMR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AMR_STORAGE", raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return world


def test_trace_shows_hostile_texts_as_text_and_no_secret(hostile: ImportedWorld):
    responses = hostile.store.read("responses", "one|00").sort("pass_index")
    for identity in (*responses["response_id"], responses["query_id"][0]):
        said = CliRunner().invoke(app, ["trace", identity[:12]])
        assert said.exit_code == 0, said.output
        assert said.stdout.replace("\n", "").isprintable()
        document = CliRunner().invoke(app, ["trace", identity, "--json"]).stdout
        assert document.isascii()
        assert document.replace("\n", "").isprintable()
        assert json.loads(document)["passport"]["id"] == identity
        assert not [secret for secret in SECRETS.values() if secret in said.output + document]
    shown = CliRunner().invoke(app, ["trace", responses["response_id"][0]]).stdout
    assert "]0;owned a b" in CliRunner().invoke(app, ["trace", responses["response_id"][1]]).stdout + shown


def test_trace_says_what_it_cannot_find_or_tell_apart(hostile: ImportedWorld):
    responses = hostile.store.read("responses", "one|00")
    twin = responses.head(1).with_columns(response_id=pl.col("response_id").str.slice(0, 8) + "f" * 24)
    hostile.store.write("responses", "one|00", pl.concat([responses, twin]), fingerprints={})
    several = CliRunner().invoke(app, ["trace", twin["response_id"][0][:8]])
    assert several.exit_code == 1
    assert twin["response_id"][0] in several.output
    assert responses["response_id"][0] in several.output
    document = CliRunner().invoke(app, ["trace", twin["response_id"][0][:8], "--json"])
    assert (document.exit_code, json.loads(document.stdout)["passport"]) == (1, None)
    assert len(json.loads(document.stdout)["matches"]) == 2
    nothing = CliRunner().invoke(app, ["trace", "0" * 12])
    assert (nothing.exit_code, "nothing that is stored has the id 000000000000" in nothing.output) == (1, True)
    assert CliRunner().invoke(app, ["trace", "0" * 7]).exit_code == 2
    assert CliRunner().invoke(app, ["trace", f"nowhere/{'0' * 8}"]).exit_code == 2


def test_doctor_ends_with_1_where_something_is_broken_and_speaks_to_machines(hostile: ImportedWorld):
    well = CliRunner().invoke(app, ["doctor", "--json"], env={"DAGSTER_HOME": ""})
    assert not [one for one in json.loads(well.stdout) if one["level"] == "broken" and one["check"] != "listeners"]
    broken = CliRunner().invoke(app, ["doctor"], env={"AMR_STUDY": "micor", "AMR_STUDI": "micro"})
    assert broken.exit_code == 1
    assert "do: AMR_STUDY=micro" in broken.stdout
    assert "do: rename it to AMR_STUDY" in broken.stdout
    assert not [secret for secret in SECRETS.values() if secret in well.output + broken.output]


def test_collect_garbage_takes_old_files_that_no_commit_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMR_HOME", str(tmp_path))
    parts = tmp_path / "tables" / "difficulty" / "00" / "parts"
    parts.mkdir(parents=True)
    for name, age in (("old", 25 * 3600), ("young", 0)):
        (parts / name).write_bytes(b"1")
        os.utime(parts / name, (time.time() - age,) * 2)
    result = CliRunner().invoke(app, ["collect-garbage"])
    assert "1 files removed" in result.output
    assert [path.name for path in parts.iterdir()] == ["young"]
    assert CliRunner().invoke(app, ["collect-garbage", "--older-than-hours", "0"]).exit_code == 2


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImportedWorld:
    """A distiller has answered two questions twice, and has a pass more now; the commands look at it."""
    world = ImportedWorld(tmp_path)
    world.change('DISTILLERS = ("one", "two")', 'DISTILLERS = ("one",)')
    world.ask("Who first?", "Who second?")
    world.answer("one", {"Who first?": ["a", "b", "c"], "Who second?": ["d", "e", "f"]})
    world.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    world.change("NUM_PASSES = 2", "NUM_PASSES = 3")
    for name, value in (("STUDY", world.file), ("HOME", tmp_path / "home"), ("PRICE_PER_GPU_HOUR", "2")):
        monkeypatch.setenv(f"AMR_{name}", str(value))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    monkeypatch.delenv("AMR_STORAGE", raising=False)
    return world


def test_a_backfill_says_what_it_takes_before_it_begins_and_ends_where_nothing_is_owed(answered: ImportedWorld):
    done = CliRunner().invoke(app, ["backfill", "one"])
    assert done.exit_code == 0, done.output
    forecast, walk = done.output.split("[1/", 1)
    (row,) = [line.split() for line in forecast.splitlines() if line.startswith("one ")]
    assert (row[2], row[-2:]) == ("2", ["0", "0.00"]), "two responses, and imported ones take nothing"
    assert "Begin?" not in done.output, "nobody is there to answer"
    assert "responses: 1 partition owed" in walk
    assert answered.store.read("responses", "one|00").height == 6
    again = CliRunner().invoke(app, ["backfill", "one"])
    assert (again.exit_code, again.output) == (0, "Nothing is owed by one, nor by what follows from it.\n")
    unknown = CliRunner().invoke(app, ["backfill", "nobody"])
    assert (unknown.exit_code, "no distiller 'nobody'" in unknown.output) == (2, True)


def at_a_terminal(*arguments: str, answer: str) -> tuple[int, str]:
    """Exit code and output of `amr` whose standard input is a terminal at which somebody typed an answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        command = [sys.executable, "-W", "ignore", "-m", "amr_pipeline.command_line", *arguments]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False, timeout=300)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout


def test_at_a_terminal_a_backfill_asks_before_it_begins_and_broken_off_it_goes_on(answered: ImportedWorld):
    code, said = at_a_terminal("backfill", "one", answer="n\n")
    assert (code, "Begin? [y/N]" in said, "[1/" in said) == (1, True, False)
    assert answered.store.read("responses", "one|00").height == 4
    answered.materialize(assets=("responses",))
    code, said = at_a_terminal("backfill", "one", "--yes", answer="")
    assert (code, "Begin?" in said, "responses: nothing owed" in said) == (0, False, True)
    assert answered.store.read("verdicts", "one|00").height == 6
