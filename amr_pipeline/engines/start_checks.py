"""Whether a model has room where its engine is about to load it, in numbers, before minutes of loading.

Weights are counted from the files, the KV cache from the model's settings, for one request of the whole context. What
cannot be counted (a hub model that is not on this disk yet, settings of an unknown form) is left to the engine.

Belongs here: sizes, and the refusal. Does not belong here: whether the files are those of the row (`model_folders`).
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amr_pipeline.engines.engine_work import EngineSettings

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4}
STORED_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
"""Bytes of a stored number by its name in a safetensors header; every other kind has one."""

USABLE_SHARE = 0.9
"""Share of a GPU's memory that the engine may take; the rest is for what others hold there."""

GIB = 2**30


class DoesNotFitError(ValueError):
    """A model needs more memory than its row gives it."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes that an engine needs at least, all its workers together."""

    weights: int
    kv_cache: int

    @property
    def total(self) -> int:
        """Weights, and the KV cache of one request of the whole context."""
        return self.weights + self.kv_cache


def needs_of(folder: Path, settings: EngineSettings) -> Needs | None:
    """What a model in a folder needs; None where that cannot be counted.

    On CPU every weight is held as a 32-bit float, whatever the files hold.
    """
    settings_file, files = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not settings_file.is_file() or not files:
        return None
    said = json.loads(settings_file.read_text(encoding="utf-8"))
    per_token = kv_bytes_per_token(said, 4 if settings.gpus == 0 else BYTES.get(settings.dtype, 2))
    if per_token is None:
        return None
    on_cpu = settings.gpus == 0
    weights = sum(_weights_bytes(path, 4 if on_cpu else None) for path in files)
    return Needs(weights=weights, kv_cache=per_token * settings.max_model_len)


def kv_bytes_per_token(said: Mapping[str, Any], bytes_each: int) -> int | None:
    """Bytes of the KV cache that one token takes in all layers, from a model's `config.json`; None: unknown form.

    Keys and values of every key-value head; with latent attention (DeepSeek V2 and V3), one compressed vector and the
    part that carries positions.
    """
    layers = said.get("num_hidden_layers")
    if not isinstance(layers, int):
        return None
    if said.get("kv_lora_rank"):
        return layers * (int(said["kv_lora_rank"]) + int(said.get("qk_rope_head_dim", 0))) * bytes_each
    heads = said.get("num_attention_heads")
    kv_heads = said.get("num_key_value_heads") or heads
    size = said.get("head_dim") or (said["hidden_size"] // heads if heads and said.get("hidden_size") else None)
    if not kv_heads or not size:
        return None
    return 2 * layers * int(kv_heads) * int(size) * bytes_each


def refuse_what_does_not_fit(settings: EngineSettings, needs: Needs | None, available: int) -> None:
    """Make sure that an engine can be started in so many bytes.

    Args:
        settings: the engine's.
        needs: of all workers together; None passes.
        available: bytes of memory that all its workers have together.

    Raises:
        DoesNotFitError: they are not enough; the message says what is needed, and for what.
    """
    usable = int(available * USABLE_SHARE)
    if needs is None or needs.total <= usable:
        return
    where = f"{settings.num_workers} GPU(s)" if settings.gpus > 0 else "this machine"
    remedy = "more GPUs per engine (tensor_parallel_size)" if settings.gpus > 0 else "a smaller model, more memory"
    raise DoesNotFitError(
        f"{settings.model} needs {needs.weights / GIB:,.1f} GiB for its weights and {needs.kv_cache / GIB:,.1f} GiB "
        f"for one request of {settings.max_model_len:,} tokens; {where} can give it {usable / GIB:,.1f} GiB. "
        f"Wanted: {remedy}, or a smaller max_model_len"
    )


def _weights_bytes(path: Path, bytes_each: int | None) -> int:
    """Bytes of a safetensors file's tensors, each number held in so many bytes, or as it is stored for None."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        stored = STORED_BYTES.get(tensor["dtype"], 1)
        total += (end - begin) if bytes_each is None else (end - begin) // stored * bytes_each
    return total
