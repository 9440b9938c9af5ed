import json
import os
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
