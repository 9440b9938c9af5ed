"""What is installed, as a bill of materials, and which of it has published advisories: `make audit`, `make lint`.

The bill (CycloneDX) is written beside the environment. Advisories are asked of the package index; one that has none, or
is out of reach, is said in one line, because nothing was audited then. `--strict` fails where an advisory is found;
`make lint` prints it only, since an advisory of today would fail a checkout of yesterday.

Does not belong here: pinning (make_locks.py).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROGRAMS = Path(sys.executable).parent
BILL = PROGRAMS.parent / "sbom.cdx.json"


def write_bill(path: Path) -> int:
    """Write the bill of materials of this environment; gives the number of its components."""
    command = [str(PROGRAMS / "cyclonedx-py"), "environment", sys.executable, "--output-reproducible", "--no-validate"]
    subprocess.run([*command, "--output-file", str(path)], check=True, stderr=subprocess.DEVNULL)
    return len(json.loads(path.read_text())["components"])


def audited(*what: str) -> list[dict[str, Any]]:
    """A row per package, as pip-audit says it: name, version, and `vulns` where the index knows the package.

    Raises:
        RuntimeError: it could not ask.
    """
    command = [str(PROGRAMS / "pip-audit"), "--progress-spinner=off", "--format=json", *what]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode not in (0, 1) or not found.stdout:
        raise RuntimeError((found.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    return json.loads(found.stdout)["dependencies"]


def knows_advisories() -> bool:
    """Whether the index answers for one package; some mirrors do not, and asking for all takes a while."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"pip=={version('pip')}\n")
        file.flush()
        return "vulns" in audited("--requirement", file.name, "--no-deps", "--disable-pip")[0]


def advisories() -> tuple[int, list[str]]:
    """(packages that the index knows, a line per advisory: package, version, its id, and where it is mended)."""
    rows = audited("--local", "--skip-editable")
    lines = [
        f"{row['name']} {row['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no version yet'}"
        for row in rows
        for one in row.get("vulns", [])
    ]
    return sum("vulns" in row for row in rows), lines


def main() -> None:
    """Write the bill, ask for advisories, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--strict", action="store_true", help="fail where an advisory is found")
    arguments = parser.parse_args()
    print(f"{write_bill(BILL)} components in {BILL}")
    try:
        is_known = knows_advisories()
    except RuntimeError as error:
        print(f"not audited: the package index could not be asked for advisories: {error}")
        return
    if not is_known:
        print("not audited: the package index here publishes no advisories")
        return
    num_known, found = advisories()
    print("\n".join([*found, f"{len(found)} advisories for {num_known} packages"]))
    if found and arguments.strict:
        sys.exit(1)


if __name__ == "__main__":
    main()
