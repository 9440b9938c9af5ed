"""What the text of an environment variable says, or why it says nothing.

Belongs here: reading such texts. Does not belong here: reading the environment itself, which one file does
(`deployment`).
"""

import math
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from amr_pipeline.responses.prices import TokenPrice


def http_addresses(text: str) -> dict[str, str]:
    """Address by row name. Messages repeat none, since it may hold a password where it should not."""
    found: dict[str, str] = {}
    for place, item in enumerate(filter(None, text.split(",")), start=1):
        name, _, address = (part.strip() for part in item.partition("="))
        wanted = "wanted name=http(s)://host:port/v1,... without user, password, query or fragment"
        try:
            url = urlsplit(address)
            is_plain = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            raise ValueError(f"AMR_HTTP_ENGINES: entry {place} is no address; {wanted}") from None
        if not name or not is_plain or set("@?# \t\n") & set(address):
            raise ValueError(f"AMR_HTTP_ENGINES: entry {place} is no address; {wanted}")
        if key_variable(name) in map(key_variable, found):
            raise ValueError(f"AMR_HTTP_ENGINES: two entries would share {key_variable(name)}; wanted one of each")
        found[name] = address
    return found


def alert_address(text: str) -> str | None:
    """An `http(s)://` address, or None for nothing. Messages do not repeat it: it is a secret."""
    if not text.strip():
        return None
    try:
        url = urlsplit(text.strip())
        is_plain = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and "@" not in url.netloc
    except ValueError:
        is_plain = False
    if not is_plain or not text.strip().isascii() or set(" \t\n#") & set(text.strip()):
        raise ValueError("AMR_ALERT_URL is no address; wanted http(s)://host/path without user, password or fragment")
    return text.strip()


GROUPS = ("queries", "responses", "verdicts", "difficulty", "subsets", "release", "training", "evaluation")
"""Groups of assets; a study without rows for a chapter has none of its group."""


def owners(text: str) -> dict[str, tuple[str, ...]]:
    """`team:data,training=ann@example.org` as owners by group of assets; those without one are of all other groups."""
    found: dict[str, tuple[str, ...]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        group, _, owner = (part.strip() for part in item.rpartition("="))
        if not re.fullmatch(r"team:[\w-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner, re.ASCII):
            raise ValueError(f"AMR_OWNERS has {item!r}; wanted team:NAME or an e-mail address, or GROUP=OWNER")
        if group and group not in GROUPS:
            raise ValueError(f"AMR_OWNERS names the group {group!r}; wanted {', '.join(GROUPS)}")
        found[group] = (*found.get(group, ()), owner)
    return found


def key_variable(name: str) -> str:
    """The variable with the key of a distiller's server: `r1-7b` has `AMR_HTTP_KEY_R1_7B`."""
    return "AMR_HTTP_KEY_" + "".join(letter.upper() if letter.isalnum() else "_" for letter in name)


def counts_by_name(name: str, text: str, addresses: Mapping[str, str]) -> dict[str, int]:
    """Whole numbers by row name, each of an engine that has an address."""
    pairs = [item.partition("=") for item in text.split(",") if item]
    found = {row.strip(): count(name, number.strip() or "nothing", 1) for row, _, number in pairs}
    if strangers := sorted(found.keys() - addresses.keys()):
        raise ValueError(f"{name} names {strangers}, which AMR_HTTP_ENGINES does not; wanted name=number,name=number")
    return found


def token_prices(text: str, addresses: Mapping[str, str]) -> dict[str, TokenPrice]:
    """`r1=0.55/2.19` as prices of a million tokens of prompts and of responses, each of an engine with an address."""
    name, found = "AMR_PRICE_PER_MILLION_TOKENS", dict[str, TokenPrice]()
    for item in filter(None, text.split(",")):
        row, _, both = (part.strip() for part in item.partition("="))
        numbers = [float(part) for part in both.split("/") if re.fullmatch(r"\d+(\.\d+)?", part.strip(), re.ASCII)]
        if not row or len(numbers) != 2 or both.count("/") != 1:
            raise ValueError(f"{name} has {item!r}; wanted name=PROMPTS/RESPONSES, as in r1=0.55/2.19")
        found[row] = TokenPrice(prompts=numbers[0], responses=numbers[1])
    if strangers := sorted(found.keys() - addresses.keys()):
        raise ValueError(f"{name} names {strangers}, which AMR_HTTP_ENGINES does not; wanted prices of these")
    return found


def count(name: str, given: str | None, default: int) -> int:
    """A whole number from 1, or the default where nothing is given."""
    text = given or str(default)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} is {text!r}; wanted a whole number from 1")
    return int(text)


def count_range(name: str, given: str | None, default: int) -> tuple[int, int]:
    """`2` as (2, 2) and `1-8` as (1, 8): the fewest and the most."""
    fewest, dash, most = (given or str(default)).partition("-")
    wanted = f"{name} is {given!r}; wanted a whole number from 1, or the fewest and the most, as 1-8"
    try:
        found = count(name, fewest, default), count(name, most if dash else fewest, default)
    except ValueError:
        raise ValueError(wanted) from None
    if found[0] > found[1] or (dash and not most):
        raise ValueError(wanted)
    return found


def amount(name: str, given: str | None) -> float | None:
    """A positive number, or None for nothing."""
    if not given:
        return None
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {given!r}; wanted a number above 0")
    return number


def amounts_by_name(variable: str, given: str) -> dict[str, float]:
    """`2500,r1=180` as positive numbers by row name; the one without a name is for all others."""
    found: dict[str, float] = {}
    for item in filter(None, given.split(",")):
        name, _, number = (part.strip() for part in item.rpartition("="))
        value = amount(variable, number)
        if value is None:
            raise ValueError(f"{variable} is {given!r}; wanted number,name=number,name=number")
        found[name] = value
    return found


_GPU_KIND = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII | re.IGNORECASE)
"""The value of a label of a Ray node."""


def gpu_kinds(given: str) -> dict[str, tuple[str, ...]]:
    """`L4,r1=H100/H200` as kinds of GPU by row name; those without a name are for all others."""
    found: dict[str, tuple[str, ...]] = {}
    for item in filter(None, given.split(",")):
        name, _, kinds = (part.strip() for part in item.rpartition("="))
        found[name] = tuple(kind.strip() for kind in kinds.split("/"))
        if not all(_GPU_KIND.fullmatch(kind) for kind in found[name]):
            raise ValueError(f"AMR_GPU_KINDS has {item!r}; wanted kinds as Ray calls them: L4,name=H100/H200")
    return found
