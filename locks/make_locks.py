"""Re-makes every lock from pyproject.toml: `make lock`.

Versions already locked stay unless pyproject.toml forbids them (`--upgrade NAME` frees one, `--upgrade-all` all).
Each line carries the hashes of all files of that version, so any platform's wheel is accepted and nothing else is.

| file | holds | installed |
|---|---|---|
| build.lock | setuptools, alone in the environment that builds wheels | first |
| source.lock | what the index has as source only: DeepSpeed | built there, then as a wheel |
| torch_cpu.lock | the CPU build of torch | first; fails where pip knows none |
| torch_cuda.lock | the index's build of torch, with the CUDA libraries it needs | only if the CPU build failed |
| cpu.lock | everything else of the embedded default, vLLM's CPU build among it | wheels only, `--no-deps` |
| gpu.lock | the same with CUDA vLLM, torch and CUDA libraries, in place of the three above | wheels only, `--no-deps` |
| test.lock | what lint and tests need on top | wheels only, `--no-deps` |

The GPU set is resolved first, because CUDA vLLM pins more; the CPU set must then agree with it on every shared name.
Does not belong here: installing (Makefile, docker/Dockerfile).
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

LOCKS = Path(__file__).parent
PYPROJECT = LOCKS.parent / "pyproject.toml"
PYTHON = "3.11"
PLATFORM = "x86_64-manylinux_2_36"  # Debian 12's C library; llguidance has no older wheel

NOT_ON_CPU = ("torchvision", "torchaudio", "torchcodec")
"""Dependencies of vLLM's CPU build that are linked against CUDA and break its import when present."""

NOT_FOR_TESTS = ("rfc3987-syntax",)
"""A dependency of the bill's validation, which nobody asks for. Where it is installed, jsonschema compiles its grammar
in every process that imports it: Ray's, each of which then takes two seconds longer."""

CPU_BUILDS_OF_TORCH = {
    # torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
    "2.13.0": ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",),
}
"""sha256 by version. They are not on the package index, so uv cannot list them; pip knows one where it is told of a
folder or index that has it. A lock of their own, because pip prefers a file whose hash the index lists to any other."""

BUILDS_WHEELS, SOURCE_ONLY = "setuptools", "deepspeed"
CUDA_LIBRARY = re.compile(r"(nvidia|cuda)-")
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)")

Pins = dict[str, str]
"""Package name to its block of text: the pin and its hash lines, ending with a newline."""


def read(path: Path) -> Pins:
    """Blocks of a lock file by package name; empty when there is no file yet."""
    pins: Pins = {}
    name = None
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if found := _PIN.match(line):
            name = found[1]
            pins[name] = line
        elif name and line.startswith("    --hash="):
            pins[name] += line
    return pins


def version(block: str) -> str:
    """The version that a block pins."""
    found = _PIN.match(block)
    if found is None:
        raise ValueError(f"not a pinned requirement: {block[:80]!r}")
    return found[2]


def write(name: str, purpose: str, pins: Pins) -> None:
    """Write `locks/NAME`, sorted, under a header that says what it is for."""
    text = f"# {purpose}\n# Made by `make lock`; do not edit.\n" + "".join(pins[key] for key in sorted(pins))
    (LOCKS / name).write_text(text)
    print(f"locks/{name}: {len(pins)} packages")


def resolve(
    requirements: list[str], *, present: Pins, constraints: Pins, overrides: list[str], upgrade: list[str]
) -> Pins:
    """Complete pins of `requirements`, preferring the versions in `present`.

    Raises:
        subprocess.CalledProcessError: they contradict each other; uv's message says which do.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted, locked = Path(folder) / "wanted.in", Path(folder) / "locked.txt"
        limits, forced = Path(folder) / "limits.in", Path(folder) / "forced.in"
        wanted.write_text("\n".join(requirements))
        locked.write_text("".join(present.values()))
        limits.write_text("".join(f"{name}=={version(block)}\n" for name, block in constraints.items()))
        forced.write_text("\n".join(overrides))
        command = [sys.executable, "-m", "uv", "pip", "compile", str(wanted), "--output-file", str(locked)]
        command += ["--constraints", str(limits), "--overrides", str(forced), "--generate-hashes", "--no-annotate"]
        command += ["--no-header", "--quiet", "--python-version", PYTHON, "--python-platform", PLATFORM]
        subprocess.run([*command, *upgrade], check=True)
        return read(locked)


def cpu_build(block: str) -> str:
    """The block that pins the CPU builds of the torch that `block` pins.

    Raises:
        KeyError: none is known; find one and add its hash (`pip hash FILE`) to CPU_BUILDS_OF_TORCH.
    """
    lines = [
        f"torch=={version(block)}+cpu",
        *(f"--hash=sha256:{digest}" for digest in CPU_BUILDS_OF_TORCH[version(block)]),
    ]
    return " \\\n    ".join(lines) + "\n"


def without(pins: Pins, names: set[str]) -> Pins:
    """`pins` without the packages called `names`."""
    return {name: block for name, block in pins.items() if name not in names}


def never(names: Iterable[str]) -> list[str]:
    """Overrides that leave packages out."""
    return [f"{name}; sys_platform == 'never'" for name in names]


def main() -> None:
    """Resolve the GPU, CPU and test sets in that order and write the locks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--upgrade", action="append", default=[], metavar="NAME", help="let this package move")
    parser.add_argument("--upgrade-all", action="store_true", help="let every package move")
    arguments = parser.parse_args()
    upgrade = ["--upgrade"] if arguments.upgrade_all else [f"--upgrade-package={name}" for name in arguments.upgrade]

    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    shared = [*project["dependencies"], *extras["server"]]
    torch = next(line for line in shared if line.startswith("torch=="))
    locked = {
        name: block for file in ("source", "torch_cuda", "cpu") for name, block in read(LOCKS / f"{file}.lock").items()
    }

    gpu = resolve(
        [*shared, *extras["gpu"]],
        present={**locked, **read(LOCKS / "gpu.lock")},
        constraints={},
        overrides=[],
        upgrade=upgrade,
    )
    cpu = resolve(
        [*shared, *extras["cpu"]],
        present={**locked, **gpu},
        constraints=gpu,
        overrides=[torch, *never(NOT_ON_CPU)],
        upgrade=upgrade,
    )
    present = {**gpu, **cpu, **read(LOCKS / "test.lock")}
    test = resolve(
        extras["test"],
        present=present,
        constraints={**gpu, **cpu},
        overrides=never(NOT_FOR_TESTS),
        upgrade=upgrade,
    )

    write("build.lock", "What builds wheels", {BUILDS_WHEELS: cpu[BUILDS_WHEELS]})
    write("source.lock", "Published as source only", {SOURCE_ONLY: cpu[SOURCE_ONLY]})
    write("gpu.lock", "The GPU set, torch and CUDA libraries included", without(gpu, {SOURCE_ONLY}))
    libraries = {name for name in cpu if CUDA_LIBRARY.match(name)} | {"torch"}
    write("torch_cpu.lock", "The CPU build of torch", {"torch": cpu_build(cpu["torch"])})
    write(
        "torch_cuda.lock", "The index's build of torch and its CUDA libraries", {name: cpu[name] for name in libraries}
    )
    write("cpu.lock", "The CPU set, without torch", without(cpu, libraries | {SOURCE_ONLY}))
    write("test.lock", "Lint and tests, on top of the CPU set", test)


if __name__ == "__main__":
    main()
