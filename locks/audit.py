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
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
BILL = PROGRAMS.parent / "sbom.cdx.json"
ADVISORIES = f"https://pypi.org/pypi/pip/{version('pip')}/json"
"""An address of those that pip-audit asks; some mirrors of the index lack them."""

SECONDS = 10.0


def write_bill(path: Path) -> int:
    """Write the bill of materials of this environment; gives the number of its components."""
    command = [str(PROGRAMS / "cyclonedx-py"), "environment", sys.executable, "--output-reproducible", "--no-validate"]
    subprocess.run([*command, "--output-file", str(path)], check=True, stderr=subprocess.DEVNULL)
    return len(json.loads(path.read_text())["components"])


def why_not(address: str) -> str | None:
    """Why the index cannot be asked for advisories, None where it can."""
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:  # noqa: S310  (https, written above)
            return None if "vulnerabilities" in json.loads(answer.read()) else "it publishes none"
    except (OSError, ValueError) as error:
        return str(error)


def advisories() -> tuple[int, list[str]]:
    """(packages that the index knows, a line per advisory: package, version, its id, and where it is mended)."""
    command = [str(PROGRAMS / "pip-audit"), "--local", "--skip-editable", "--progress-spinner=off", "--format=json"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode not in (0, 1) or not found.stdout:
        raise RuntimeError(f"pip-audit failed: {found.stderr[-2000:]}")
    rows = json.loads(found.stdout)["dependencies"]
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
    if reason := why_not(ADVISORIES):
        print(f"not audited: the package index was asked for advisories, {reason}")
        return
    num_known, found = advisories()
    print("\n".join([*found, f"{len(found)} advisories for {num_known} packages"]))
    if found and arguments.strict:
        sys.exit(1)


if __name__ == "__main__":
    main()
