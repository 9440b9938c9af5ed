"""Which engines are alive: warm between calls, at most so many at a time, the one idle longest goes first.

On a cluster of its own, a process has pools of its own. On an existing cluster pools outlive it and are shared
(`kept_pools`).

Belongs here: the callables that chapters declare (`responses.generation`, `verdicts.verifier`), and who may use which
engine when. Does not belong here: an actor's life and the streaming loop (`engine_replicas`), the engine itself.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import ray

from amr_pipeline.engines.engine_replicas import Pool, PoolLoad, PoolSize
from amr_pipeline.engines.engine_work import EngineSettings, Family, Work
from amr_pipeline.engines.kept_pools import KeptPool, kept_pool, listed_pools, make_room, stop_idle_pools
from amr_pipeline.engines.model_folders import check_folder, model_address
from amr_pipeline.engines.pool_keeper import PoolStatus
from amr_pipeline.engines.ray_cluster import ensure_ray, leave_ray
from amr_pipeline.responses.generation import (
    GeneratedResponse,
    GenerationRequest,
    PerplexityScore,
    ScoringRequest,
)
from amr_pipeline.studies.study import Distiller, Sampling, Scorer
from amr_pipeline.verdicts.verifier import Cause, JudgeReply, JudgeRequest, RateReply, RateRequest

log = logging.getLogger(__name__)

SECONDS_BETWEEN_WARNINGS = 60.0


class EnginePools:
    """Every pool of this process.

    Args:
        ray_address: an existing cluster, or None for a private one.
        cache: folder for engine caches, where VLLM_CACHE_ROOT names no other.
        max_engines: models alive at a time; each takes about 2 GiB on CPU.
        size: engines of one model.
        idle_seconds: how long a pool on an existing cluster stays without a caller.
        gpu_kinds: kinds of GPU that a distiller's engines may run on, by its name; "" stands for all other models.
        family: "transformers" makes plain transformers stand in for vLLM; a distiller's row may ask for it, too.
    """

    def __init__(
        self,
        *,
        ray_address: str | None,
        cache: Path,
        max_engines: int,
        size: PoolSize | None = None,
        idle_seconds: float = 900.0,
        gpu_kinds: Mapping[str, tuple[str, ...]] | None = None,
        family: Family = "vllm",
    ) -> None:
        self._address, self._cache = ray_address, cache
        self._family: Family = family
        self._max, self._size, self._idle_seconds = max_engines, size or PoolSize(), idle_seconds
        self._gpu_kinds = gpu_kinds or {}
        self._kept: dict[EngineSettings, KeptPool] = {}
        self._known: dict[tuple[object, ...], EngineSettings] = {}
        self._pools: dict[EngineSettings, Pool] = {}
        self._users: dict[EngineSettings, int] = {}
        self._locks: dict[EngineSettings, threading.Lock] = {}
        self._changed = threading.Condition()

    def generate(self, distiller: Distiller, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedResponse]:
        """Responses of one distiller, each as it finishes (`responses.generation.Generate`).

        Raises:
            WrongModelError: the model is not what its row says.
            EngineStartError, EngineKeepsDyingError: what is not yielded yet stays owed.
        """
        with self._pool(distiller) as pool:
            yield from _write(pool, distiller.sampling, requests)

    def generate_with_weights(
        self, like: Scorer, weights: Path, sampling: Sampling, requests: Iterable[GenerationRequest]
    ) -> Iterator[GeneratedResponse]:
        """Responses of a checkpoint, from an engine of the same architecture that takes over its weights.

        A checkpoint costs no engine start. `like` is the model that training started from.
        """
        with self._pool(like, weights) as pool:
            yield from _write(pool, sampling, requests)

    def score_perplexity(self, scorer: Scorer, requests: Iterable[ScoringRequest]) -> Iterator[PerplexityScore]:
        """Perplexity of query and response together (`responses.generation.ScorePerplexity`)."""
        work = (
            Work(work_id=item.response_id, kind="read", messages=item.messages, text=item.text) for item in requests
        )
        with self._pool(scorer) as pool:
            for done in pool.run(work):
                yield PerplexityScore(response_id=done.work_id, perplexity=done.perplexity)

    def ask_judge(self, scorer: Scorer, requests: Iterable[JudgeRequest]) -> Iterator[JudgeReply]:
        """A judge's replies in the grammar of each request (`verdicts.verifier.AskJudge`).

        A question that the judge cannot take (longer than its context, for one) has the cause `too_complex`: asking
        again would end the same way.
        """
        work = (
            Work(
                work_id=item.request_id,
                kind="judge",
                messages=item.messages,
                pattern=item.pattern,
                max_tokens=item.max_tokens,
            )
            for item in requests
        )
        with self._pool(scorer) as pool:
            for done in pool.run(work):
                if done.finish_reason == "error":
                    yield JudgeReply(request_id=done.work_id, text=None, cause=Cause.TOO_COMPLEX)
                else:
                    yield JudgeReply(request_id=done.work_id, text=done.text)

    def rate_replies(self, scorer: Scorer, requests: Iterable[RateRequest]) -> Iterator[RateReply]:
        """Heads of a reward model for each conversation (`verdicts.verifier.RateReplies`).

        A conversation that the model cannot take (longer than its context, for one) has the cause `too_complex`.
        """
        work = (Work(work_id=item.request_id, kind="rate", messages=item.messages) for item in requests)
        with self._pool(scorer, family="reward") as pool:
            for done in pool.run(work):
                cause = None if done.heads is not None else Cause.TOO_COMPLEX
                yield RateReply(request_id=done.work_id, heads=done.heads, cause=cause)

    def gpus_held(self, row: Distiller | Scorer) -> float:
        """GPUs that a row's engines hold now, or this process's part of them where its pool is shared.

        0 while this process uses no pool of the row.
        """
        settings = self._known.get(self._loading(row))
        pool = None if settings is None else self._kept.get(settings) or self._pools.get(settings)
        return 0.0 if pool is None else pool.gpus

    def load(self, row: Distiller | Scorer) -> PoolLoad | None:
        """How full a row's pool is; None while this process does not use it."""
        if not ray.is_initialized():
            return None
        settings = self._known_settings(row)
        if (kept := self._kept.get(settings)) is not None:
            return kept.load
        pool = self._pools.get(settings)
        return pool.load() if pool is not None else None

    def listed(self) -> list[PoolStatus]:
        """Pools of the existing cluster, whoever made them; none where this process has a cluster of its own."""
        if self._address is None:
            return []
        ensure_ray(self._address)
        return listed_pools()

    def drop_all_idle(self) -> None:
        """End every pool that nobody uses now."""
        with self._changed:
            while self._drop_idle():
                pass
        if self._address is not None and ray.is_initialized():
            stop_idle_pools()

    def close(self) -> None:
        """End every pool, and the cluster if it is this process's own."""
        with self._changed:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()
        leave_ray()

    @contextmanager
    def _pool(
        self, row: Distiller | Scorer, weights: Path | None = None, family: Family | None = None
    ) -> "Iterator[Pool | KeptPool]":
        """The row's pool for one caller, with other weights or its own; opening it may end the one idle longest."""
        ensure_ray(self._address)
        settings = self._settings(row, family)
        if self._address is not None:
            with self._place(settings, getattr(row, "name", row.model), weights) as kept:
                yield kept
            return
        pool, turn = self._claim(settings)
        try:
            with turn:
                pool.open()
                pool.use_weights(None if weights is None else str(weights))
                yield pool
        finally:
            with self._changed:
                self._users[settings] -= 1
                if not pool.replicas and not self._users[settings]:
                    self._pools.pop(settings, None)
                self._changed.notify_all()

    @contextmanager
    def _place(self, settings: EngineSettings, label: str, weights: Path | None) -> Iterator[KeptPool]:
        """A place at a pool of the existing cluster."""
        make_room(settings, self._size)
        pool = KeptPool(settings, self._environment(settings), _engine_class(settings), self._size, self._idle_seconds)
        with kept_pool(pool, label, None if weights is None else str(weights)):
            self._kept[settings] = pool
            try:
                yield pool
            finally:
                if self._kept.get(settings) is pool:
                    del self._kept[settings]

    def _claim(self, settings: EngineSettings) -> tuple[Pool, threading.Lock]:
        """A pool, perhaps not open yet, that stays until it is given back; engines start outside this lock."""
        with self._changed:
            while settings not in self._pools and len(self._pools) >= self._max and not self._drop_idle():
                if not self._changed.wait(SECONDS_BETWEEN_WARNINGS):
                    busy = ", ".join(one.model for one in self._pools)
                    log.warning("waiting for an engine: %d of %d are in use (%s)", len(self._pools), self._max, busy)
            pool = self._pools.pop(settings, None) or Pool(
                settings, self._environment(settings), _engine_class(settings), size=self._size
            )
            self._pools[settings] = pool  # last in the dict is last used
            self._users[settings] = self._users.get(settings, 0) + 1
            return pool, self._locks.setdefault(settings, threading.Lock())

    def _drop_idle(self) -> bool:
        idle = next((settings for settings in self._pools if not self._users.get(settings)), None)
        if idle is None:
            return False
        self._pools.pop(idle).close()
        return True

    def _known_settings(self, row: Distiller | Scorer) -> EngineSettings:
        """A row's settings; its model is looked at only if nobody has before."""
        known = self._known.get(self._loading(row))
        return self._settings(row) if known is None else known

    def _settings(self, row: Distiller | Scorer, family: Family | None = None) -> EngineSettings:
        address, revision = model_address(row.model, row.revision)
        check_folder(address, row.max_model_len)
        asked: Family = "transformers" if getattr(row, "engine", None) == "transformers" else self._family
        # A cluster elsewhere may have scaled its GPU nodes to none and brings them when they are asked for.
        has_gpus = self._address is not None or bool(ray.cluster_resources().get("GPU"))
        settings = EngineSettings(
            model=address,
            revision=revision,
            max_model_len=row.max_model_len,
            dtype=row.dtype,
            tensor_parallel_size=row.tensor_parallel_size,
            pipeline_parallel_size=getattr(row, "pipeline_parallel_size", 1),
            gpus=row.gpus_per_replica if has_gpus else 0.0,
            gpu_kinds=self._kinds(row) if has_gpus and row.gpus_per_replica else (),
            family=family or asked,
        )
        if family is None:
            self._known[self._loading(row)] = settings
        return settings

    def _kinds(self, row: Distiller | Scorer) -> tuple[str, ...]:
        return self._gpu_kinds.get(getattr(row, "name", ""), self._gpu_kinds.get("", ()))

    def _loading(self, row: Distiller | Scorer) -> tuple[object, ...]:
        """All that a row and the deployment say about how its model is loaded."""
        names = ("model", "revision", "engine", "max_model_len", "dtype", "gpus_per_replica")
        sizes = ("tensor_parallel_size", "pipeline_parallel_size")
        return (*(getattr(row, name, None) for name in (*names, *sizes)), self._kinds(row))

    def _environment(self, settings: EngineSettings) -> dict[str, str]:
        """What the actor's process is started with; model libraries read it when they are imported."""
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_CACHE_ROOT": os.environ.get("VLLM_CACHE_ROOT") or str(self._cache),
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if Path(settings.model).is_dir():
            environment["HF_HUB_OFFLINE"] = "1"
        if settings.gpus == 0:
            environment |= {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": "1",
                # The kernel behind prompt logprobs would be compiled for 20 s.
                "TORCH_COMPILE_DISABLE": "1",
            }
        return environment


def _write(
    pool: Pool | KeptPool, sampling: Sampling, requests: Iterable[GenerationRequest]
) -> Iterator[GeneratedResponse]:
    work = (
        Work(
            work_id=item.response_id,
            kind="write",
            messages=item.messages,
            seed=item.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
        )
        for item in requests
    )
    for done in pool.run(work):
        yield GeneratedResponse(
            response_id=done.work_id,
            text=done.text,
            finish_reason=done.finish_reason,
            prompt_tokens=done.prompt_tokens,
            response_tokens=done.response_tokens,
            engine=pool.engine_name,
            attempts=done.attempts,
            last_failure=done.last_failure,
        )


def _engine_class(settings: EngineSettings) -> type:
    """The actor's class; its libraries are loaded in the actor, and transformers' only where it is used."""
    if settings.family == "reward":
        from amr_pipeline.engines.reward_engine import RewardEngine

        return RewardEngine
    if settings.family == "transformers":
        from amr_pipeline.engines.transformers_engine import TransformersEngine

        return TransformersEngine
    from amr_pipeline.engines.vllm_engine import VllmEngine

    return VllmEngine


def open_pools(
    *,
    ray_address: str | None,
    cache: Path,
    max_engines: int,
    size: PoolSize | None = None,
    idle_seconds: float = 900.0,
    gpu_kinds: Mapping[str, tuple[str, ...]] | None = None,
) -> EnginePools:
    """Pools of vLLM engines; of plain transformers, with a loud warning, where vLLM is not installed.

    An existing cluster brings its own installation, so only a private one is asked what it has.
    """
    family: Family = "vllm"
    if ray_address is None and find_spec("vllm") is None:
        family = "transformers"
        message = (
            "vLLM is not installed: responses come from plain transformers, which is slower, writes other texts for "
            "the same seeds and has no grammar for judges; install locks/cpu.lock for the real engine"
        )
        warnings.warn(message, stacklevel=2)
        log.warning(message)
    return EnginePools(
        ray_address=ray_address,
        cache=cache,
        max_engines=max_engines,
        size=size,
        idle_seconds=idle_seconds,
        gpu_kinds=gpu_kinds,
        family=family,
    )
