"""Whether the server of a distiller answers and takes the key: one GET of /models, which costs nothing.

It is asked as the engine asks: directly, following no redirect, and no message holds the key.

Belongs here: one harmless question. Does not belong here: asking for responses (`http_engine`).
"""

import http.client
import json
from urllib.parse import urlsplit

from amr_pipeline.engines.http_answers import HttpKey, hidden
from amr_pipeline.report.findings import Finding, broken, ok, warning

PATIENCE_SECONDS = 5.0
MOST_BYTES = 2**20
MODELS_NAMED = 5


def check_http_engine(name: str, address: str, key: HttpKey | None, model: str | None, variable: str) -> Finding:
    """Ask a server which models it has.

    Args:
        name: the distiller's row.
        address: up to and including `/v1`.
        key: what it is asked with, or None.
        model: what the row asks it for; None where the study has no such row.
        variable: the environment variable of the key.
    """
    check, host = f"http {name}", urlsplit(address).netloc
    hide = hidden(key)
    try:
        status, body = _models(address, key)
    except (OSError, http.client.HTTPException) as error:
        return broken(
            check,
            hide(f"no answer from {host} ({type(error).__name__}: {error})"),
            wanted="a server that speaks the OpenAI protocol",
            fix=f"start it, or correct its address: AMR_HTTP_ENGINES={name}=ADDRESS",
        )
    if status in (401, 403):
        said = "refuses the key" if key else "wants a key"
        return broken(
            check, f"{host} {said} ({status})", wanted="a key that it takes", fix=f"set {variable} to a valid key"
        )
    if status == 404:
        return warning(
            check,
            f"{host} has no {urlsplit(address).path}/models (404)",
            wanted="an address up to and including /v1; a few servers have no list of models all the same",
            fix=f"check the path in AMR_HTTP_ENGINES={name}=...",
        )
    if status != 200:
        return broken(
            check,
            f"{host} answers {status} to GET /models",
            wanted="200",
            fix=f"look at the server's log; 3xx: set AMR_HTTP_ENGINES={name}= to where it points",
        )
    return _listed(check, host, body, model)


def _listed(check: str, host: str, body: bytes, model: str | None) -> Finding:
    names = _names(body)
    if model is None or names is None or model in names:
        said = "answers" if names is None else f"serves {len(names)} model{'' if len(names) == 1 else 's'}"
        return ok(check, f"{host} {said}")
    shown = ", ".join(names[:MODELS_NAMED]) or "none"
    return broken(
        check,
        f"{host} does not serve {model!r}; it has {shown}",
        wanted=f"the model that the row asks for, {model!r}",
        fix=f"serve it by that name (vllm serve ... --served-model-name {model}), or change model= in the row",
    )


def _names(body: bytes) -> list[str] | None:
    """Names in a list of models; None where it is none."""
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list):
        return None
    return [str(each["id"]) for each in models if isinstance(each, dict) and "id" in each]


def _models(address: str, key: HttpKey | None) -> tuple[int, bytes]:
    url = urlsplit(address)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PATIENCE_SECONDS)
    said = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key.text}"} if key else {})
    try:
        connection.request("GET", f"{url.path.rstrip('/')}/models", headers=said)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_BYTES)
    finally:
        connection.close()
