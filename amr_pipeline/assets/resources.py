"""The platform of a deployment: the only door from assets to engines.

Engine modules are imported inside the methods that need them, so definitions load without Ray, vLLM or torch.
Engines are kept per process: runs that share a process (the demo, a test) share warm pools and one Ray cluster.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from amr_pipeline.assets import variables
from amr_pipeline.assets.deployment import Deployment, alert_address, http_key
from amr_pipeline.assets.lost_runs import giving_signs
from amr_pipeline.assets.open_engines import engines_are_open, open_engines, open_http_engine
from amr_pipeline.queries.decontamination import Embed
from amr_pipeline.responses.budget import Budget
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.studies.study import Distiller, HubDataset, Sampling, Scorer, TrainingRecipe
from amr_pipeline.verdicts.verifier import CompareAnswers, RunPrograms

if TYPE_CHECKING:
    from amr_pipeline.engines.engine_pools import EnginePools
    from amr_pipeline.engines.engine_replicas import PoolLoad
    from amr_pipeline.engines.http_engine import HttpEngine
    from amr_pipeline.engines.mlflow_runs import MlflowRuns
    from amr_pipeline.engines.pool_keeper import PoolStatus
    from amr_pipeline.engines.tables_on_disk import TableStore


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
    gpu_kinds: dict[str, list[str]] = {}
    prices_per_gpu_hour: dict[str, float] = {}
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
            gpu_kinds={name: list(kinds) for name, kinds in deployment.gpu_kinds.items()},
            prices_per_gpu_hour=dict(deployment.prices_per_gpu_hour),
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
            gpu_kinds={name: tuple(kinds) for name, kinds in self.gpu_kinds.items()},
        )

    def generate(self, row: Distiller, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedResponse]:
        """Responses of a distiller: written by its engine, or looked up where they exist already."""
        if row.engine == "imported":
            from amr_pipeline.engines.imported_responses import imported_responses

            return imported_responses(row, requests, self.storage_options)
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
        return Prices(gpu_hours=self.prices_per_gpu_hour, tokens=tokens)

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

    def make_room_for_training(self, num_workers: int, gpus_per_worker: int) -> None:
        """End idle engines, so that training has memory, cores and GPUs: all of this process, or what a cluster lacks.

        Pools of an existing cluster, whoever made them, go only until that many workers could start.
        """
        if self.ray_address is not None:
            from amr_pipeline.engines.training_workers import make_room_for_training

            make_room_for_training(num_workers, gpus_per_worker=gpus_per_worker, ray_address=self.ray_address)
        elif engines_are_open():
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
