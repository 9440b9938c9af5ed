"""docker/compose.yaml as compose reads it: merges, then variables, by compose's own rules for the forms it uses."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent
COMPOSE = REPOSITORY / "docker" / "compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")

PASSWORDS = ("AMR_POSTGRES_PASSWORD", "AMR_S3_KEY", "AMR_S3_SECRET", "AMR_RAY_TOKEN")
FILLED = {name: f"a {name.lower()} with % and /" for name in PASSWORDS}


class MissingVariableError(Exception):
    """A variable without which compose does not start."""


def _filled(text: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, form, rest = match.groups()
        if given := environ.get(name):
            return given
        if form == ":?":
            raise MissingVariableError(f"{name}: {rest}")
        assert form == ":-", f"{match[0]} is a form that this reader does not know"
        return rest

    assert not re.search(r"\$(?!\{)", text), f"{text!r} holds a dollar sign that is no variable"
    return VARIABLE.sub(value, text)


def _walk(node: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _walk(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [_walk(value, environ) for value in node]
    return _filled(node, environ) if isinstance(node, str) else node


def compose(environ: Mapping[str, str] = FILLED) -> dict:
    """The file under an environment.

    Raises:
        MissingVariableError: compose would refuse to start.
    """
    document = yaml.safe_load(COMPOSE.read_text())
    return {name: _walk(part, environ) for name, part in document.items() if not name.startswith("x-")}


def services(environ: Mapping[str, str] = FILLED) -> dict[str, dict]:
    """Services by name."""
    return compose(environ)["services"]
