"""The deployment: what the environment says, in the only file that reads it.

Belongs here: the variables, the study that they name, and the secrets that no field may hold. Does not belong here:
what the text of one says (`variables`), what assets are given of it (`resources`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amr_pipeline.assets import variables
from amr_pipeline.responses.prices import TokenPrice
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.study import Study
from amr_pipeline.verdicts.known_constraints import require_known_constraints

if TYPE_CHECKING:
    from amr_pipeline.engines.http_answers import HttpKey


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where things run and are kept; never anything that changes a result.

    Attributes:
        study: module name under `amr_pipeline.studies`, or the path of a study file.
        study_parameters: what a parametrized study is given (`imported`: root, set).
        home: folder of this machine: SQLite of the embedded default, trainings under way, caches, logs.
        storage: folder or `s3://` address of the tables.
        storage_options: what fsspec needs to reach it, and files of the study on `s3://`.
        ray_address: an existing cluster, or None for one inside this process.
        mlflow_uri: tracking store.
        max_engines: models in memory at a time.
        engines_per_model: engines that share one model's work, the fewest and the most.
        pool_idle_seconds: how long a pool of engines on an existing cluster stays when nobody uses it.
        regrade_cron: when the schedule `regrade` looks for owed verdicts.
        regrade_partitions: runs that one tick of it may request, so that a changed verifier does not flood the queue.
        gpu_kinds: kinds of GPU that a distiller's engines may run on, as labels of Ray's nodes name them; "" stands for
            all other models, and no entry for any kind.
        prices_per_gpu_hour: what a distiller's GPU costs an hour, in whatever money; "" stands for all others.
        tokens_per_gpu_second: rates to forecast with where none is measured, by distiller; "" stands for all others.
        budget_tokens, budget_money: what one run of `responses` may spend; None for no limit.
        token_prices: what a server bills for a million tokens, prompts and responses, by row name.
        http_addresses: where distillers of engine `http` are asked, by row name. Keys are in no field: Dagster shows
            what its resources hold (`http_key`).
        http_in_flight: requests under way at each of them at a time.
        http_requests_per_minute, http_tokens_per_minute: what each may be asked, by row name; no entry: no limit.
        overdue_hours: after which a table that owes as much as before fails its check and people are told.
        owners: who answers for the assets of a group, by its name; those of the empty name for all other groups.
        sends_alerts: whether people are told of failures; the address is in no field, as keys are in none.
    """

    study: str
    study_parameters: Mapping[str, str]
    home: Path
    storage: str
    storage_options: Mapping[str, object]
    ray_address: str | None
    mlflow_uri: str
    max_engines: int
    engines_per_model: tuple[int, int]
    pool_idle_seconds: int
    regrade_cron: str
    regrade_partitions: int
    gpu_kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prices_per_gpu_hour: Mapping[str, float] = field(default_factory=dict)
    tokens_per_gpu_second: Mapping[str, float] = field(default_factory=dict)
    budget_tokens: int | None = None
    budget_money: float | None = None
    token_prices: Mapping[str, TokenPrice] = field(default_factory=dict)
    http_addresses: Mapping[str, str] = field(default_factory=dict)
    http_in_flight: int = 64
    http_requests_per_minute: Mapping[str, int] = field(default_factory=dict)
    http_tokens_per_minute: Mapping[str, int] = field(default_factory=dict)
    overdue_hours: float = 24.0
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sends_alerts: bool = False


def deployment_from_environment(environ: Mapping[str, str] = os.environ) -> Deployment:
    """The deployment that the `AMR_*` variables describe (README: environment).

    Raises:
        ValueError: a variable has a value that cannot be used.
    """
    home = Path(environ.get("AMR_HOME") or ".amr").absolute()
    parameters = environ.get("AMR_STUDY_PARAMETERS", "")
    pairs = [item.partition("=") for item in parameters.split(",") if item]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"AMR_STUDY_PARAMETERS is {parameters!r}; wanted name=value,name=value")
    cron = environ.get("AMR_REGRADE_CRON") or "*/15 * * * *"
    if len(cron.split()) != 5:
        raise ValueError(f"AMR_REGRADE_CRON is {cron!r}; wanted five fields, as in cron")
    endpoint = environ.get("AMR_S3_ENDPOINT")
    return Deployment(
        study=environ.get("AMR_STUDY") or "micro",
        study_parameters={name: value for name, _, value in pairs},
        home=home,
        storage=environ.get("AMR_STORAGE") or str(home / "tables"),
        storage_options={"endpoint_url": endpoint} if endpoint else {},
        ray_address=environ.get("AMR_RAY_ADDRESS") or None,
        mlflow_uri=environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
        max_engines=variables.count("AMR_MAX_ENGINES", environ.get("AMR_MAX_ENGINES"), 2),
        engines_per_model=variables.count_range("AMR_ENGINES_PER_MODEL", environ.get("AMR_ENGINES_PER_MODEL"), 1),
        gpu_kinds=variables.gpu_kinds(environ.get("AMR_GPU_KINDS") or ""),
        pool_idle_seconds=variables.count("AMR_POOL_IDLE_SECONDS", environ.get("AMR_POOL_IDLE_SECONDS"), 900),
        regrade_cron=cron,
        regrade_partitions=variables.count("AMR_REGRADE_PARTITIONS", environ.get("AMR_REGRADE_PARTITIONS"), 8),
        overdue_hours=variables.amount("AMR_OVERDUE_HOURS", environ.get("AMR_OVERDUE_HOURS")) or 24.0,
        owners=variables.owners(environ.get("AMR_OWNERS") or ""),
        sends_alerts=alert_address(environ) is not None,
        **_spending_settings(environ),
        **_http_settings(environ),
    )


def _spending_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a deployment that say what GPU time costs and what a run may spend."""
    budget = environ.get("AMR_BUDGET_TOKENS")
    prices = variables.amounts_by_name("AMR_PRICE_PER_GPU_HOUR", environ.get("AMR_PRICE_PER_GPU_HOUR") or "")
    rates = variables.amounts_by_name("AMR_TOKENS_PER_GPU_SECOND", environ.get("AMR_TOKENS_PER_GPU_SECOND") or "")
    money = variables.amount("AMR_BUDGET_MONEY", environ.get("AMR_BUDGET_MONEY"))
    if money is not None and not prices and not environ.get("AMR_PRICE_PER_MILLION_TOKENS"):
        raise ValueError(
            "AMR_BUDGET_MONEY is set without a price; wanted AMR_PRICE_PER_GPU_HOUR, AMR_PRICE_PER_MILLION_TOKENS, or "
            "a budget in tokens"
        )
    return {
        "prices_per_gpu_hour": prices,
        "tokens_per_gpu_second": rates,
        "budget_tokens": variables.count("AMR_BUDGET_TOKENS", budget, 1) if budget else None,
        "budget_money": money,
    }


def _http_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a deployment that say where and how distillers are asked over HTTP."""
    addresses = variables.http_addresses(environ.get("AMR_HTTP_ENGINES", ""))
    requests = environ.get("AMR_HTTP_REQUESTS_PER_MINUTE", "")
    tokens = environ.get("AMR_HTTP_TOKENS_PER_MINUTE", "")
    prices = environ.get("AMR_PRICE_PER_MILLION_TOKENS", "")
    return {
        "http_addresses": addresses,
        "token_prices": variables.token_prices(prices, addresses),
        "http_in_flight": variables.count("AMR_HTTP_IN_FLIGHT", environ.get("AMR_HTTP_IN_FLIGHT"), 64),
        "http_requests_per_minute": variables.counts_by_name("AMR_HTTP_REQUESTS_PER_MINUTE", requests, addresses),
        "http_tokens_per_minute": variables.counts_by_name("AMR_HTTP_TOKENS_PER_MINUTE", tokens, addresses),
    }


def http_key(name: str, environ: Mapping[str, str] = os.environ) -> "HttpKey | None":
    """The key of a distiller's server, read when it is needed and kept in no resource; None: it wants none.

    Raises:
        ValueError: it holds what no header can; the message does not repeat it.
    """
    from amr_pipeline.engines.http_answers import HttpKey

    text = environ.get(variables.key_variable(name), "").strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"{variables.key_variable(name)} holds characters that no key can; wanted printable ASCII")
    return HttpKey(text) if text else None


def alert_address(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where people are told of failures, read when it is needed and kept in no resource; None: nowhere.

    Raises:
        ValueError: it is no address; the message does not repeat it, since who knows it may write there.
    """
    return variables.alert_address(environ.get("AMR_ALERT_URL") or "")


def study_of(deployment: Deployment) -> Study:
    """The study that the deployment names, validated.

    Raises:
        StudyError: its rows contradict each other, or it asks for an instruction constraint that has no rule.
    """
    study = load_study(deployment.study, deployment.study_parameters, deployment.storage_options)
    return require_known_constraints(study)
