"""Training under Ray Train: rows are written, workers run `deepspeed_loop`, results are read back.

Several jobs can share one group of workers, because starting workers and importing torch and DeepSpeed costs more
than a small run; each job still has its own folder, checkpoints, result and failure.
"""

import itertools
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from amr_pipeline.engines.deepspeed_loop import (
    EXPORT,
    LIVE,
    PROGRESS,
    RESULT,
    ROWS,
    TrainingJob,
    read_json,
    worker_loop,
)
from amr_pipeline.engines.model_folders import folder_digest, model_address
from amr_pipeline.engines.ray_cluster import ensure_ray
from amr_pipeline.engines.training_workers import gpus_here, trains_on_gpu
from amr_pipeline.training.packing import PackedRows
from amr_pipeline.training.rendering import ChatTokens, TextTokens

SECONDS_BETWEEN_LOOKS, LOOKS_BETWEEN_WARNINGS = 10.0, 6

MAX_FAILURES = 2
"""Worker groups that may die before a job counts as failed; each resumes from its last checkpoint."""


class TrainingError(RuntimeError):
    """Jobs that failed, by name and with the reason; what others of their group finished is kept."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a job left behind.

    Attributes:
        checkpoint: the exported model folder, with its digest.
        curve: per step: step, loss, learning_rate, gradient_norm, tokens_per_second.
        resumed_from_step: where it went on after an interruption, None when it ran through.
        seconds: of the attempt that finished it.
        spent_seconds, gpu_seconds: of all attempts, what was done twice included; loading is in none.
    """

    checkpoint: Path
    digest: str
    num_steps: int
    resumed_from_step: int | None
    seconds: float
    curve: list[dict[str, float]]
    spent_seconds: float = 0.0
    gpu_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A model's tokenizer as the callables that `training.rendering` wants."""

    chat_tokens: ChatTokens
    text_tokens: TextTokens
    end_token: int
    pad_token: int


def load_tokenizer(model: str, revision: str | None) -> Tokenizer:
    """The tokenizer of a folder or hub model, which must have a chat template.

    Raises:
        WrongModelError: the model is not what its row says.
    """
    from transformers import AutoTokenizer

    address, commit = model_address(model, revision)
    tokenizer = AutoTokenizer.from_pretrained(address, revision=commit, trust_remote_code=False)

    def chat_tokens(turns: Sequence[tuple[str, str]]) -> list[int]:
        messages = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Tokenizer(
        chat_tokens=chat_tokens,
        text_tokens=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        end_token=tokenizer.eos_token_id,
        pad_token=pad,
    )


def prepare(job: TrainingJob, rows: PackedRows) -> None:
    """Write a job's rows into its folder, dropping what another identity left there."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PROGRESS, RESULT, LIVE):
        found = read_json(folder / name)
        if found is not None and found["identity"] != job.identity:
            (folder / name).unlink()
    unfinished = folder / f".{ROWS}-unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in ("tokens", "labels", "positions", "sizes"):
        np.save(unfinished / f"{name}.npy", getattr(rows, name))
    shutil.rmtree(folder / ROWS, ignore_errors=True)
    unfinished.replace(folder / ROWS)


def train(
    jobs: Sequence[TrainingJob],
    *,
    num_workers: int,
    gpus_per_worker: int = 1,
    ray_address: str | None,
    say: Callable[[str], object],
) -> list[TrainingResult]:
    """Run jobs one after another in one group of workers, and read their results; finished jobs are not run again.

    A killed worker is replaced and resumes from the last checkpoint. If this process dies, calling again resumes. A
    finished job whose export is damaged is trained anew. A job that fails does not keep the ones after it waiting.
    Without `gpus_per_worker`, and on a private cluster without GPUs, it runs on CPU. GPUs that an existing cluster does
    not have now are waited for, and `say` hears of it.

    Raises:
        TrainingError: workers of a job died too often, or it cannot be trained; raised when all others are done.
    """
    left = [job for job in jobs if not _finished(job)]
    reasons: list[str] = []
    cause: Exception | None = None
    while left:
        try:
            _fit(left, num_workers, gpus_per_worker, ray_address, say)
        except ray.train.TrainingFailedError as error:
            # Workers take the jobs in order, so the first without a result is the one that failed.
            stuck = next((at for at, job in enumerate(left) if not (Path(job.folder) / RESULT).exists()), None)
            if stuck is None:  # every job has its result: the group died while ending
                break
            reasons.append(f"{left[stuck].name}: {_last_line(error)}")
            cause = cause or error
            left = left[stuck + 1 :]
        else:
            break
    if reasons:
        raise TrainingError(
            f"{len(reasons)} of {len(jobs)} training runs failed; the others keep their results, and the failed ones "
            "resume when run again. " + "; ".join(reasons)
        ) from cause
    return [result_of(job) for job in jobs]


def _fit(
    jobs: Sequence[TrainingJob],
    num_workers: int,
    gpus_per_worker: int,
    ray_address: str | None,
    say: Callable[[str], object],
) -> None:
    """One group of Ray Train workers over jobs."""
    ensure_ray(ray_address)
    if ray_address is None:  # nobody drains the only node of a private cluster; looking out for it takes a process
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    on_gpu = trains_on_gpu(gpus_per_worker, ray_address=ray_address, gpus_here=gpus_here())
    name, storage = f"amr-{uuid.uuid4().hex[:8]}", Path(jobs[0].folder).parent / ".ray-train"
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"jobs": list(jobs)},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            worker_runtime_env={"env_vars": _worker_environment(jobs, on_gpu)},
        ),
    )
    try:
        with _saying_progress(jobs, num_workers if on_gpu else 0, say):
            trainer.fit()
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)  # Ray Train's own notes; a job's folder has all that counts


def _finished(job: TrainingJob) -> bool:
    """Whether a job has its result and its export is still what it was; what belongs to a damaged one is dropped."""
    folder = Path(job.folder)
    found = read_json(folder / RESULT)
    if found is None or found["identity"] != job.identity:
        return False
    if (folder / EXPORT / "config.json").exists() and folder_digest(folder / EXPORT) == found["digest"]:
        return True
    (folder / PROGRESS).unlink(missing_ok=True)
    (folder / RESULT).unlink()
    return False


def _last_line(error: Exception) -> str:
    """The line of a worker's traceback that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def result_of(job: TrainingJob) -> TrainingResult:
    """The result in a job's folder.

    Raises:
        RuntimeError: there is none, though its workers ended.
    """
    found = read_json(Path(job.folder) / RESULT)
    if found is None or found["identity"] != job.identity:
        raise RuntimeError(f"training {job.name} ended without a result in {job.folder}; see the Ray Train log")
    checkpoint = Path(job.folder) / EXPORT
    return TrainingResult(
        checkpoint=checkpoint,
        digest=found["digest"],
        num_steps=found["num_steps"],
        resumed_from_step=found["resumed_from_step"],
        seconds=found["seconds"],
        curve=found["curve"],
        spent_seconds=found["spent_seconds"],
        gpu_seconds=found["gpu_seconds"],
    )


def _worker_environment(jobs: Sequence[TrainingJob], on_gpu: bool) -> dict[str, str]:
    environment = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}
    if all(Path(job.model).is_dir() for job in jobs):
        environment["HF_HUB_OFFLINE"] = "1"
    if not on_gpu:
        environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return environment


@contextmanager
def _saying_progress(jobs: Sequence[TrainingJob], gpus: int, say: Callable[[str], object]):
    """Say where the running job is, every ten seconds, from the file its first worker keeps.

    While the cluster has fewer than the `gpus` that its workers ask for together, that is said instead, each minute.
    """
    ended = threading.Event()

    def watch() -> None:
        for looks in itertools.count():
            if ended.wait(SECONDS_BETWEEN_LOOKS):
                return
            if gpus and (here := gpus_here()) < gpus:
                if looks % LOOKS_BETWEEN_WARNINGS == 0:
                    say(f"training waits for {gpus} GPUs, one for each worker; the cluster has {here:g} now")
                continue
            running = next((job for job in jobs if not (Path(job.folder) / RESULT).exists()), None)
            live = read_json(Path(running.folder) / LIVE) if running else None
            if running and live:
                say(
                    f"{running.name}: step {live['step']:.0f}/{live['of']}, loss {live['loss']:.3f}, "
                    f"rate {live['learning_rate']:.2g}, {live['tokens_per_second']:,.0f} tokens/s, "
                    f"about {live['seconds_left']:,.0f} s left"
                )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
