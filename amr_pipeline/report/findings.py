"""What a look at a deployment found: one line when all is well, and what to do where it is not.

Belongs here: what a finding is, and how it is shown. Does not belong here: looking (`engines.*_check`,
`assets.settings_check`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal
from urllib.parse import unquote

from amr_pipeline.report.terminal_text import plain

Level = Literal["ok", "warning", "broken"]

LONGEST_LINE = 400
"""Characters of what was found that are shown; servers and files may say more."""

SHORTEST_SECRET = 4
"""Shorter values are words that texts hold anyway."""

_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIALS?|ALERT_URL)(?:_|$)")
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s]*@")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, as a word or two.
        found: what is there, in a sentence.
        wanted: what should be there; empty where all is well.
        fix: the command or setting that makes it so; empty where all is well.
    """

    check: str
    level: Level
    found: str
    wanted: str = ""
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, level="ok", found=found)


def warning(check: str, found: str, *, wanted: str, fix: str) -> Finding:
    """It works, and something will be missed or slow."""
    return Finding(check=check, level="warning", found=found, wanted=wanted, fix=fix)


def broken(check: str, found: str, *, wanted: str, fix: str) -> Finding:
    """A run that needs this fails, or does harm."""
    return Finding(check=check, level="broken", found=found, wanted=wanted, fix=fix)


def without_secrets(findings: Iterable[Finding], environ: Mapping[str, str]) -> list[Finding]:
    """The findings without any value of a variable that is named like a secret, and without passwords in addresses.

    Checks do not print secrets; errors of libraries and servers may.
    """
    named = [value.strip() for name, value in environ.items() if _SECRET_NAME.search(name)]
    inside = [login.rstrip("@").partition(":")[2] for text in environ.values() for login in _IN_ADDRESS.findall(text)]
    secrets = sorted({*named, *inside, *map(unquote, inside)}, key=len, reverse=True)

    def hidden(text: str) -> str:
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, "[hidden]")
        return _IN_ADDRESS.sub("", text)

    return [replace(one, found=hidden(one.found), wanted=hidden(one.wanted), fix=hidden(one.fix)) for one in findings]


def findings_text(findings: Sequence[Finding]) -> str:
    """A line per finding, and below it what was wanted and what to do; the sum at the end."""
    width = max((len(one.check) for one in findings), default=0)
    lines: list[str] = []
    for one in findings:
        lines.append(f"{one.level:<7}  {one.check.ljust(width)}  {plain(one.found, LONGEST_LINE)}")
        for name, text in (("wanted", one.wanted), ("do", one.fix)):
            if text:
                lines.append(f"{'':7}  {'':{width}}  {name}: {plain(text, LONGEST_LINE)}")
    counts = {level: sum(one.level == level for one in findings) for level in ("ok", "warning", "broken")}
    return "\n".join([*lines, "", ", ".join(f"{count} {level}" for level, count in counts.items())])


def findings_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The same as plain data."""
    return [asdict(one) for one in findings]


def is_broken(findings: Iterable[Finding]) -> bool:
    """Whether anything is broken."""
    return any(one.level == "broken" for one in findings)
