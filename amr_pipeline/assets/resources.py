"""The deployment: the only file that reads the environment, and the only door from assets to engines.

Engine modules are imported inside the methods that need them, so definitions load without Ray, vLLM or torch.
Engines are kept per process: runs that share a process (the demo, a test) share warm pools and one Ray cluster.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from amr_pipeline.assets import variables
from amr_pipeline.assets.lost_runs import giving_signs
from amr_pipeline.assets.open_engines import engines_are_open, open_engines, open_http_engine
from amr_pipeline.queries.decontamination import Embed
from amr_pipeline.responses.budget import Budget
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.study import Distiller, HubDataset, Sampling, Scorer, Study, TrainingRecipe
from amr_pipeline.verdicts.known_constraints import require_known_constraints
from amr_pipeline.verdicts.verifier import CompareAnswers, RunPrograms

if TYPE_CHECKING:
    from amr_pipeline.engines.engine_pools import EnginePools
    from amr_pipeline.engines.engine_replicas import PoolLoad
    from amr_pipeline.engines.http_answers import HttpKey
    from amr_pipeline.engines.http_engine import HttpEngine
    from amr_pipeline.engines.mlflow_runs import MlflowRuns
    from amr_pipeline.engines.pool_keeper import PoolStatus
    from amr_pipeline.engines.tables_on_disk import TableStore


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where things run and are kept; never anything that changes a result.

    Attributes:
        study: module name under `amr_pipeline.studies`, or the path of a study file.
        study_parameters: what a parametrized study is given (`imported`: root, set).
        home: folder of this machine: SQLite of the embedded default, trainings under way, caches, logs.
        storage: folder or `s3://` address of the tables.
        storage_options: what fsspec needs to reach it.
        ray_address: an existing cluster, or None for one inside this process.
        mlflow_uri: tracking store.
        max_engines: models in memory at a time.
        engines_per_model: engines that share one model's work, the fewest and the most.
        pool_idle_seconds: how long a pool of engines on an existing cluster stays when nobody uses it.
        regrade_cron: when the schedule `regrade` looks for owed verdicts.
        regrade_partitions: runs that one tick of it may request, so that a changed verifier does not flood the queue.
        price_per_gpu_hour: what a GPU costs an hour, in whatever money; None where nobody said.
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
    price_per_gpu_hour: float | None = None
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
    price = variables.amount("AMR_PRICE_PER_GPU_HOUR", environ.get("AMR_PRICE_PER_GPU_HOUR"))
    money = variables.amount("AMR_BUDGET_MONEY", environ.get("AMR_BUDGET_MONEY"))
    if money is not None and price is None and not environ.get("AMR_PRICE_PER_MILLION_TOKENS"):
        raise ValueError(
            "AMR_BUDGET_MONEY is set without a price; wanted AMR_PRICE_PER_GPU_HOUR, AMR_PRICE_PER_MILLION_TOKENS, or "
            "a budget in tokens"
        )
    return {
        "price_per_gpu_hour": price,
        "tokens_per_gpu_second": variables.rates_by_name(environ.get("AMR_TOKENS_PER_GPU_SECOND") or ""),
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
    return require_known_constraints(load_study(deployment.study, deployment.study_parameters))


class Platform(dg.ConfigurableResource):
    """Tables, engines and tracking of one deployment, opened when first used."""

    home: str
    storage: str
    storage_options: dict[str, str] = {}
    ray_address: str | None = None
    mlflow_uri: str
    max_engines: int = 2
    engines_per_model: list[int] = [1, 1]
    pool_idle_seconds: int = 900
    price_per_gpu_hour: float | None = None
    tokens_per_gpu_second: dict[str, float] = {}
    budget_tokens: int | None = None
    budget_money: float | None = None
    prompt_token_prices: dict[str, float] = {}
    response_token_prices: dict[str, float] = {}
    http_addresses: dict[str, str] = {}
    http_in_flight: int = 64
    http_requests_per_minute: dict[str, int] = {}
    http_tokens_per_minute: dict[str, int] = {}

    @classmethod
    def of(cls, deployment: Deployment) -> "Platform":
        """The resource for a deployment."""
        return cls(
            home=str(deployment.home),
            storage=deployment.storage,
            storage_options={key: str(value) for key, value in deployment.storage_options.items()},
            ray_address=deployment.ray_address,
            mlflow_uri=deployment.mlflow_uri,
            max_engines=deployment.max_engines,
            engines_per_model=list(deployment.engines_per_model),
            pool_idle_seconds=deployment.pool_idle_seconds,
            price_per_gpu_hour=deployment.price_per_gpu_hour,
            tokens_per_gpu_second=dict(deployment.tokens_per_gpu_second),
            budget_tokens=deployment.budget_tokens,
            budget_money=deployment.budget_money,
            prompt_token_prices={name: price.prompts for name, price in deployment.token_prices.items()},
            response_token_prices={name: price.responses for name, price in deployment.token_prices.items()},
            http_addresses=dict(deployment.http_addresses),
            http_in_flight=deployment.http_in_flight,
            http_requests_per_minute=dict(deployment.http_requests_per_minute),
            http_tokens_per_minute=dict(deployment.http_tokens_per_minute),
        )

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Platform"]:
        """The resource while a run uses it; the run says that it lives for as long."""
        with giving_signs(context.instance, context.run.run_id if context.run else None):
            yield self

    def tables(self) -> "TableStore":
        """The table store."""
        from amr_pipeline.engines.tables_on_disk import TableStore

        return TableStore(self.storage, storage_options=self.storage_options or None)

    def pools(self) -> "EnginePools":
        """Model engines in Ray actors, warm for as long as this process lives."""
        fewest, most = self.engines_per_model
        return open_engines(
            ray_address=self.ray_address,
            home=self.home,
            max_engines=self.max_engines,
            engines_per_model=(fewest, most),
            idle_seconds=self.pool_idle_seconds,
        )

    def generate(self, row: Distiller, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedResponse]:
        """Responses of a distiller: written by its engine, or looked up where they exist already."""
        if row.engine == "imported":
            from amr_pipeline.engines.imported_responses import imported_responses

            return imported_responses(row, requests)
        return self.pools().generate(row, requests)

    def ask_server(
        self, row: Distiller, requests: Iterable[GenerationRequest], budget: Budget
    ) -> Iterator[GeneratedResponse]:
        """Responses of a distiller, asked of its server as far as a budget reaches; raises what `http_engine` does."""
        return self.http_engine(row.name).responses(row, http_key(row.name), requests, budget)

    def gpus_held(self, row: Distiller | Scorer | TrainingRecipe) -> float:
        """GPUs that a model's engines hold while they are open; of a training recipe, those that write for it."""
        model = _architecture(row) if isinstance(row, TrainingRecipe) else row
        is_here = isinstance(model, Scorer) or model.engine in ("vllm", "transformers")
        return self.pools().gpus_held(model) if is_here and engines_are_open() else 0.0

    def prices(self) -> Prices:
        """What GPU time and tokens cost, as far as the deployment says so."""
        tokens = {
            name: TokenPrice(prompts=price, responses=self.response_token_prices[name])
            for name, price in self.prompt_token_prices.items()
        }
        return Prices(gpu_hour=self.price_per_gpu_hour, tokens=tokens)

    def engine_load(self, row: Distiller) -> "PoolLoad | None":
        """How full a distiller's engines are; None where it has none of ours, or they are not asked now."""
        return self.pools().load(row) if row.engine in ("vllm", "transformers") and engines_are_open() else None

    def listed_pools(self) -> "list[PoolStatus]":
        """Pools of engines on the cluster that the deployment names, whoever made them; none without one."""
        return self.pools().listed() if self.ray_address is not None else []

    def budget(self) -> Budget:
        """What a run that begins now may spend on responses."""
        return Budget(tokens=self.budget_tokens, money=self.budget_money, prices=self.prices())

    def http_engine(self, name: str) -> "HttpEngine":
        """The server of a distiller; its pace lasts as long as this process.

        Raises:
            ValueError: the deployment does not say where it is.
        """
        address = self.http_addresses.get(name)
        if address is None:
            raise ValueError(
                f"distiller {name!r} is asked over HTTP and nothing says where; set AMR_HTTP_ENGINES={name}=ADDRESS "
                f"(up to and including /v1), and {variables.key_variable(name)} where its server wants a key"
            )
        requests, tokens = self.http_requests_per_minute.get(name), self.http_tokens_per_minute.get(name)
        return open_http_engine(name, address, self.http_in_flight, requests, tokens)

    def read_hub(self, reads: HubDataset) -> Iterator[Mapping[str, object]]:
        """Rows of a hub data set."""
        from amr_pipeline.engines.hub import read_hub_dataset

        return read_hub_dataset(reads)

    def embedder(self, model: str, revision: str | None) -> Embed:
        """The embedding function a study names."""
        from amr_pipeline.engines.embedding_model import embedder

        return embedder(model, revision)

    def compare_answers(self) -> CompareAnswers:
        """Killable symbolic answer checkers."""
        from amr_pipeline.engines.answer_checkers import shared_answer_checkers

        return shared_answer_checkers()

    def run_programs(self) -> RunPrograms:
        """The code sandbox."""
        from amr_pipeline.engines.code_sandbox import shared_code_sandbox

        return shared_code_sandbox()

    def tracking(self, study: str) -> "MlflowRuns":
        """MLflow runs of a study."""
        from amr_pipeline.engines.mlflow_runs import MlflowRuns

        return MlflowRuns(self.mlflow_uri, artifacts=self.folder("mlflow_artifacts"), study=study)

    def write_with_checkpoint(
        self, origin: TrainingRecipe, checkpoint: Path, sampling: Sampling, requests: Iterable[GenerationRequest]
    ) -> Iterator[GeneratedResponse]:
        """Responses of a checkpoint, by an engine of the model it was trained from that takes over its weights."""
        return self.pools().generate_with_weights(_architecture(origin), checkpoint, sampling, requests)

    def keep_checkpoint(self, recipe: str, folder: Path, digest: str) -> str:
        """Put a trained model where the tables are; its address there."""
        from amr_pipeline.engines.checkpoint_files import keep

        return keep(self.tables().files, recipe, folder, digest)

    def checkpoint(self, row: Mapping[str, Any]) -> Path:
        """The model folder of a row of `checkpoints`, fetched and checked.

        Raises:
            DamagedCheckpoint: its files are not what the row says.
        """
        from amr_pipeline.engines.checkpoint_files import fetch

        return fetch(self.tables().files, row["path"], row["digest"], self.folder("checkpoints"))

    def alert(self, text: str) -> None:
        """Tell people, where the deployment says how.

        Raises:
            AlertNotSentError: nobody took it; the message holds no address.
        """
        from amr_pipeline.engines.alerts import send_alert

        if (address := alert_address()) is not None:
            send_alert(address, text)

    def free_engines(self) -> None:
        """End idle engines, so that training has the memory and cores."""
        if engines_are_open():
            self.pools().drop_all_idle()

    def folder(self, name: str) -> Path:
        """A folder under the home, made if it does not exist."""
        path = Path(self.home) / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def _architecture(origin: TrainingRecipe) -> Scorer:
    """The model at the start of a chain of recipes, whose engine takes over the weights of all."""
    assert origin.starts_from is not None, "the origin of a chain starts from a model"
    return Scorer(
        model=origin.starts_from, revision=origin.revision or "", max_model_len=origin.evaluation_context_tokens
    )
