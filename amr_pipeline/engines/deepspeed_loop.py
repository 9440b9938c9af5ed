"""The training loop that runs in each Ray Train worker: DeepSpeed steps, checkpoints, resume, export.

A job keeps everything in its own folder. A checkpoint counts once `progress.json` names it, which happens after
every rank has written its part; a killed worker or driver goes on from there, and the step found in the checkpoint
must be the step that was named. The number of workers may change in between. The export appears whole, by a rename.
On a cluster every worker must see that folder under the same path.
"""

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amr_pipeline.engines.model_folders import folder_digest
from amr_pipeline.training.recipes import learning_rate_at, num_steps

PROGRESS = "progress.json"
RESULT = "result.json"
LIVE = "live.json"
ROWS = "rows"
CHECKPOINTS = "checkpoints"
EXPORT = "export"
UNIVERSAL = "-universal"
"""Ends the name of a checkpoint that was rewritten for another number of workers."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One run, in plain values.

    Attributes:
        name: for people.
        identity: hash of everything that decides the result; a folder with another identity is not resumed.
        folder: where rows (an array of `PackedRows` per file in `rows/`), checkpoints and the export are.
        model: folder or hub id to start from; its tokenizer goes into the export.
        fresh_config: start from random weights of this architecture instead (`config.json` of `model`).
        export_steps: steps after which an extra export `export-{step}` is written.
        checkpoint_steps: steps between checkpoints.
    """

    name: str
    identity: str
    folder: str
    model: str
    revision: str | None
    learning_rate: float
    warmup_ratio: float
    batch_rows: int
    micro_batch_rows: int
    adam_betas: tuple[float, float]
    weight_decay: float
    gradient_clip: float
    zero_stage: int
    precision: str
    seed: int
    floor_ratio: float = 0.0
    fresh_config: bool = False
    export_steps: tuple[int, ...] = ()
    checkpoint_steps: int = 200
    stop_after_steps: int | None = None
    """Steps to take of the schedule; None: all of them."""


class WrongResumeError(RuntimeError):
    """A checkpoint does not hold the step it was named for; resuming would repeat or skip steps."""


def write_json(path: Path, value: object) -> None:
    """Replace a small file whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote, or None."""
    return json.loads(path.read_text()) if path.exists() else None


def worker_loop(config: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker: the jobs of one group, one after another, skipping finished ones."""
    import deepspeed
    import torch

    # On CPU the shared-memory collective would be compiled for over a minute, and gloo does without it.
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        import sys

        vars(sys.modules["deepspeed.comm.torch"])["build_shm_op"] = lambda: None
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    for job in config["jobs"]:
        if not (Path(job.folder) / RESULT).exists():
            Run(job).train()


class Run:
    """One job in one worker."""

    def __init__(self, job: TrainingJob) -> None:
        import torch

        self.job, self.folder = job, Path(job.folder)
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        # Mapped, not read: a worker needs a few rows at a time, and a large run's rows exceed its memory.
        self.tokens, self.labels, self.positions, self.sizes = (
            np.load(self.folder / ROWS / f"{name}.npy", mmap_mode="r")
            for name in ("tokens", "labels", "positions", "sizes")
        )
        # DeepSpeed's bf16 optimizer without ZeRO takes an empty step first, which spoils Adam's bias correction.
        self.zero_stage = max(1, job.zero_stage) if job.precision == "bf16" else job.zero_stage
        self.total_steps = num_steps(len(self.tokens), job.batch_rows)
        self.last_step = min(self.total_steps, job.stop_after_steps or self.total_steps)
        self.curve: list[dict[str, float]] = []
        torch.manual_seed(job.seed)
        named = read_json(self.folder / PROGRESS)
        self.named = named if named is not None and named["identity"] == job.identity else None
        # ZeRO's parts are per worker: another number of workers needs the checkpoint in DeepSpeed's universal form.
        self.other_world = bool(self.named and self.zero_stage and self.named["workers"] != self.world)
        self.engine = self._engine(self._model())
        self.engine.train()
        self.device = self.engine.device
        if self.device.type != "cpu":  # the activations of one long row would not fit
            self.engine.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.resumed_from = self._resume()
        self.begun = time.monotonic()
        self.before = self._spent_before()

    def train(self) -> None:
        """Take every step that is left, then export and write the result."""
        begun, first = self.begun, (self.resumed_from or 0) + 1
        for step in range(first, self.last_step + 1):
            self._step(step)
            if step in self.job.export_steps:
                self._export(f"{EXPORT}-{step}")
            if step % self.job.checkpoint_steps == 0 and step < self.last_step:
                self._checkpoint(step)
            if self.rank == 0 and step % 25 == 0:
                a_step = (time.monotonic() - begun) / (step - first + 1)
                live = {"of": self.last_step, "seconds_left": a_step * (self.last_step - step), **self.curve[-1]}
                write_json(self.folder / LIVE, {"identity": self.job.identity, **live, **self._spent()})
        self._export(EXPORT)
        if self.rank == 0:
            write_json(
                self.folder / RESULT,
                {
                    "identity": self.job.identity,
                    "num_steps": self.last_step,
                    "resumed_from_step": self.resumed_from,
                    "seconds": time.monotonic() - begun,
                    **self._spent(),
                    "curve": self.curve,
                    "digest": folder_digest(self.folder / EXPORT),
                },
            )
            (self.folder / PROGRESS).unlink(missing_ok=True)
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _spent_before(self) -> dict[str, float]:
        """What earlier attempts took, as far as they came to write it down."""
        found = [read_json(self.folder / name) for name in (PROGRESS, LIVE)]
        mine = [one for one in found if one is not None and one["identity"] == self.job.identity]
        return {
            name: max((one.get(name, 0.0) for one in mine), default=0.0) for name in ("spent_seconds", "gpu_seconds")
        }

    def _spent(self) -> dict[str, float]:
        """What all attempts took up to now."""
        seconds = time.monotonic() - self.begun
        gpus = self.world if self.device.type != "cpu" else 0
        return {
            "spent_seconds": self.before["spent_seconds"] + seconds,
            "gpu_seconds": self.before["gpu_seconds"] + seconds * gpus,
        }

    def _step(self, step: int) -> None:
        import torch

        begun, job = time.monotonic(), self.job
        rate = learning_rate_at(step, self.total_steps, job.learning_rate, job.warmup_ratio, job.floor_ratio)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        batch = slice((step - 1) * job.batch_rows, step * job.batch_rows)
        # The next token is what is predicted, so a row's first label never counts.
        counted = int((self.labels[batch][:, 1:] != -100).sum())
        micro_steps = self.engine.gradient_accumulation_steps()
        norm = None
        loss_sum = torch.zeros((), device=self.device)
        for index in range(micro_steps):
            share = self._share(batch, index)
            loss = self._loss_sum(share)
            loss_sum += loss.detach()
            # DeepSpeed averages over micro steps and workers; this makes it the mean over the batch's tokens.
            self.engine.backward(loss * (micro_steps * self.world / max(1, counted)))
            if self.zero_stage == 0 and index == micro_steps - 1:  # DeepSpeed clips these without telling the norm
                gradients = [part.grad for part in self.engine.module.parameters() if part.grad is not None]
                norm = torch.nn.utils.get_total_norm(gradients)
            self.engine.step()
        if self.world > 1:
            torch.distributed.all_reduce(loss_sum)
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        self.curve.append(
            {
                "step": step,
                "loss": float(loss_sum) / max(1, counted),
                "learning_rate": rate,
                "gradient_norm": float("nan") if norm is None else float(norm),
                "tokens_per_second": int(self.sizes[batch].sum()) / (time.monotonic() - begun),
            }
        )

    def _share(self, batch: slice, index: int) -> np.ndarray:
        """Row numbers of this worker's micro step; may be empty in the last, smaller batch."""
        rows = np.arange(len(self.tokens))[batch]
        mine = rows[self.rank :: self.world]
        size = self.job.micro_batch_rows
        return mine[index * size : (index + 1) * size]

    def _loss_sum(self, rows: np.ndarray) -> Any:
        import torch

        if len(rows) == 0:  # every worker must take part in every collective
            rows, weight = np.arange(1), 0.0
        else:
            weight = 1.0
        width = int(self.sizes[rows].max())  # padding that no row of this micro step needs
        tensors = [
            torch.as_tensor(part[rows, :width], dtype=torch.long, device=self.device)
            for part in (self.tokens, self.positions, self.labels)
        ]
        logits = self.engine(input_ids=tensors[0], position_ids=tensors[1], use_cache=False).logits
        summed = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), tensors[2][:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        return summed * weight

    def _model(self) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        job = self.job
        dtype = torch.float32 if job.precision == "fp32" else torch.bfloat16
        if job.fresh_config:
            config = AutoConfig.from_pretrained(job.model, trust_remote_code=False)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        sharded = None
        if self.zero_stage == 3:  # while this object lives, each worker loads its share only
            from transformers.integrations.deepspeed import HfDeepSpeedConfig

            sharded = HfDeepSpeedConfig(self._settings())
        model = AutoModelForCausalLM.from_pretrained(
            job.model,
            revision=job.revision,
            dtype=dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
        )
        del sharded
        return model

    def _engine(self, model: Any) -> Any:
        import deepspeed

        parameters: Any = list(model.parameters())
        engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=parameters,
            dist_init_required=False,
            config=self._settings(),
        )
        return engine

    def _settings(self) -> dict[str, object]:
        """The job in DeepSpeed's words."""
        job = self.job
        return {
            "train_micro_batch_size_per_gpu": job.micro_batch_rows,
            "gradient_accumulation_steps": max(1, -(-job.batch_rows // (job.micro_batch_rows * self.world))),
            "gradient_clipping": job.gradient_clip,
            "zero_optimization": {"stage": self.zero_stage},
            "bf16": {"enabled": job.precision == "bf16"},
            "optimizer": {
                "type": "AdamW",
                # torch's own AdamW: DeepSpeed's would be compiled for minutes on CPU.
                "params": {
                    "lr": job.learning_rate,
                    "betas": list(job.adam_betas),
                    "weight_decay": job.weight_decay,
                    "torch_adam": True,
                },
            },
            "checkpoint": {"load_universal": self.other_world},
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }

    def _checkpoint(self, step: int) -> None:
        import torch

        place, tag = self.folder / CHECKPOINTS, f"step-{step}"
        self.engine.save_checkpoint(str(place), tag=tag, client_state={"step": step}, save_latest=False)
        torch.distributed.barrier()
        if self.rank == 0:
            previous = read_json(self.folder / PROGRESS)
            found = {"identity": self.job.identity, "step": step, "tag": tag, "workers": self.world}
            write_json(self.folder / PROGRESS, {**found, **self._spent(), "curve": self.curve})
            if previous and previous["tag"] != tag:
                for old in (str(previous["tag"]), f"{previous['tag']}{UNIVERSAL}"):
                    shutil.rmtree(place / old, ignore_errors=True)
        torch.distributed.barrier()

    def _resume(self) -> int | None:
        """Load the checkpoint that `progress.json` names; the step it held, or None for a fresh start."""
        if self.named is None:
            return None
        place, tag = self.folder / CHECKPOINTS, str(self.named["tag"])
        if self.other_world:
            tag = self._universal(place, tag)
        _, state = self.engine.load_checkpoint(str(place), tag=tag)
        if not state or state["step"] != self.named["step"]:
            raise WrongResumeError(
                f"{self.job.name}: {PROGRESS} says step {self.named['step']}, the checkpoint says "
                f"{state and state['step']}; remove {self.folder} to train from the start"
            )
        self.curve = list(self.named["curve"])
        return int(state["step"])

    def _universal(self, place: Path, tag: str) -> str:
        """Tag of a copy of a checkpoint that any number of workers can load."""
        import torch
        from deepspeed.checkpoint import ds_to_universal

        if self.rank == 0 and (place / tag).exists():
            copy = place / f"{tag}{UNIVERSAL}"
            shutil.rmtree(copy, ignore_errors=True)
            options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
            ds_to_universal.main(
                argparse.Namespace(
                    input_folder=str(place / tag), output_folder=str(copy), inject_missing_state=True, **options
                )
            )
        torch.distributed.barrier()
        return f"{tag}{UNIVERSAL}"

    def _export(self, name: str) -> None:
        """Weights and tokenizer as a model folder, visible whole or not at all."""
        import torch
        from transformers import AutoTokenizer

        state = self.engine._zero3_consolidated_16bit_state_dict() if self.zero_stage == 3 else None
        if self.rank == 0:
            unfinished = self.folder / f".{name}-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            self.engine.module.save_pretrained(unfinished, state_dict=state)
            AutoTokenizer.from_pretrained(
                self.job.model, revision=self.job.revision, trust_remote_code=False
            ).save_pretrained(unfinished)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            unfinished.replace(self.folder / name)
        torch.distributed.barrier()
