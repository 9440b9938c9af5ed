"""Small disks of a test's own, on which a server's files lie, and which can be full. Linux, as root."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEGABYTES = 1024
"""Of memory, as it is needed: a disk of a deployment that is tested takes a tenth of it."""

BLOCK = 2**20


def why_not() -> str | None:
    """What keeps this process from making disks; None where nothing does."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "only root may mount a disk"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    return f"no disk can be mounted here: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own at an empty folder, until the block ends."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(folder)], check=True)
    try:
        yield
    finally:
        # Lazily: what was killed a moment ago may hold a file still.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """The disk at a folder has no room left, until the block ends."""
    assert folder.is_mount(), f"{folder} has no disk of its own"
    ballast, size = folder / "ballast", BLOCK
    try:
        with ballast.open("wb", buffering=0) as file:
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2  # down to the last byte
        yield
    finally:
        ballast.unlink(missing_ok=True)
