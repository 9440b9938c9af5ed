"""What the README says can be followed: its tree, commands, example, environment table and dictionary are true."""

import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path

from amr_pipeline.report.dictionary import with_dictionary
from amr_pipeline.studies.loading import load_study

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()


def section(title: str) -> str:
    """Text from a heading to the next one of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}$\n(.*?)(?=^#{{1,2}} |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no section {title!r}"
    return found[2]


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == language]


# ------------------------------------------------------------------------------------------------------------- tree


@cache
def tree() -> tuple[str, ...]:
    """Paths of the tree, folders with a slash at the end."""
    (block,) = blocks(section("Where things are"))
    paths, folder = [], ""
    for line in block.splitlines():
        name = line.split()[0]
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            folder = name if name.endswith("/") else ""
        paths.append(name if indent == 0 else folder + name)
    return tuple(paths)


def on_disk() -> set[str]:
    """Tracked files at the top level, folders at the top level, and the same inside the package."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    shown = set()
    for name in listed:
        parts = name.split("/")
        if not name or parts[0].startswith(".") or not (REPOSITORY / name).exists():
            continue
        shown.add(parts[0] + ("/" if len(parts) > 1 else ""))
        if parts[0] == "amr_pipeline" and len(parts) > 1 and parts[1] != "__init__.py":
            shown.add("/".join(parts[:2]) + ("/" if len(parts) > 2 else ""))
    return shown


def test_every_path_of_the_tree_exists() -> None:
    assert [path for path in tree() if not (REPOSITORY / path).exists()] == []
    assert [path for path in tree() if path.endswith("/") != (REPOSITORY / path).is_dir()] == []


def test_every_chapter_and_top_level_path_is_in_the_tree() -> None:
    assert on_disk() - set(tree()) == set()


def test_decisions_name_files_that_exist() -> None:
    rows = [
        line for line in section("Where the paper is silent, and what we chose").splitlines() if line.startswith("| ")
    ]
    places = [path for row in rows[1:] for path in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1])]
    assert len(rows) > 15
    assert [place for place in places if not (REPOSITORY / "amr_pipeline" / place).exists()] == []
    assert all(re.search(r"`[^`]+` \|$", row) for row in rows[1:]), "every decision names its file"


# --------------------------------------------------------------------------------------------------------- commands


def code() -> str:
    """Everything the README sets as code: blocks and spans."""
    return "\n".join([*blocks(README), *re.findall(r"`([^`\n]+)`", README)])


def test_every_make_target_exists() -> None:
    named = set(re.findall(r"^(?:\s*)make ([a-z-]+)", code(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "dev", "lint", "lock", "clean"} <= named
    assert named <= targets


def test_every_amr_command_exists() -> None:
    from amr_pipeline.command_line import app

    named = set(re.findall(r"(?:^|\s|/)amr ([a-z][a-z-]+)", code()))
    commands = {row.name or getattr(row.callback, "__name__", "") for row in app.registered_commands}
    assert {"verify", "backfill"} <= named
    assert named <= commands


def test_every_module_that_is_run_exists() -> None:
    modules = set(re.findall(r"python -m ([a-z_.]+[a-z_])", code())) - {"benchmarks."}
    assert "amr_pipeline.report.dictionary" in modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


# ---------------------------------------------------------------------------------------------------- code and facts


def test_the_example_study_loads(tmp_path: Path) -> None:
    (example,) = blocks(section("Adding things: everything is a row"), "python")
    path = tmp_path / "my_study.py"
    path.write_text(example)
    study = load_study(str(path), {})
    assert [row.name for row in study.distillers] == ["weak", "middle", "strong", "careful"]


def test_the_environment_table_is_what_the_code_reads() -> None:
    source = (REPOSITORY / "amr_pipeline" / "assets" / "deployment.py").read_text()
    read = set(re.findall(r"environ\.get\(\s*\"(\w+)\"", source))
    told = set(re.findall(r"^\| `([A-Z_0-9]+)` \|", section("Environment"), re.MULTILINE))
    assert read
    assert told == read


def test_only_the_deployment_reads_this_projects_variables() -> None:
    readers = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "amr_pipeline").rglob("*.py")
        if re.search(r"(?:environ|getenv)[^\n]*[\"']AMR_", path.read_text())
    }
    assert readers <= {"amr_pipeline/assets/deployment.py"}


def test_the_dictionary_is_todays() -> None:
    assert with_dictionary(README) == README, "run: .venv/bin/python -m amr_pipeline.report.dictionary README.md"


def test_the_verify_tables_name_the_published_fields() -> None:
    fields = re.findall(r"^\| `(\w+)` \|", section("Judging records you already have"), re.MULTILINE)
    assert fields == [
        *(
            "id",
            "category",
            "question",
            "answer",
            "ground_truth",
            "test_case",
            "instruction_constrain",
            "finish_reason",
        ),
        *("id", "verdict", "cause", "verify_score", "verifier", "evidence"),
    ]
