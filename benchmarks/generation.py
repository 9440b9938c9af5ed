"""Tokens per second of engine pools, bare vLLM and Ray Data: `python -m benchmarks.generation [ROUNDS [PART]]`.

One run, one engine class, one model of random weights, all contestants warm (start-up excluded), in turns:

- equal lengths: every answer has as many tokens. The pool against `vllm.LLM.generate` with the same settings in a
  process of its own, as vLLM samples and as the pool does (`engines.seeded_sampling`), and against Ray Data's LLM
  processor on the same prompts.
- heavy tail: one answer in a hundred is fifty times as long as the median. The pool's stream over all shards against
  the same engine run shard by shard, with a barrier after each, and against Ray Data on the same prompts.
- little memory: a model whose KV cache holds a third of what could be stepped together. The number of requests that is
  learned from the cache's pressure against a fixed one.

Ray Data starts its engine inside every execution, so its clock runs from its first finished batch to its last, over
the tokens in between; the others' clocks run over everything.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amr_pipeline.engines.admission import Admission
from amr_pipeline.engines.engine_pools import EnginePools
from amr_pipeline.engines.engine_replicas import Pool
from amr_pipeline.engines.engine_work import EngineSettings, Work
from amr_pipeline.engines.model_folders import model_address
from amr_pipeline.engines.ray_cluster import ensure_ray
from amr_pipeline.engines.vllm_engine import VllmEngine
from amr_pipeline.studies.micro import WEIGHTS
from benchmarks.versions import measured_on

ROUNDS, PRESSED_ROUNDS = 5, 3
CONTEXT = 1_536
EQUAL_TOKENS, EQUAL_REQUESTS = 64, 640
SHARDS, PER_SHARD, MEDIAN_TOKENS, LONG_TOKENS = 8, 100, 20, 1_000
LARGE_CACHE = {
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
PRESSED_REQUESTS, PRESSED_TOKENS = 90, (300, 900)
"""A token takes 64 KiB of the cache's 1 GiB; requests have lengths between these."""

PARTS = ("contestants", "little-memory")
RATIOS = {
    "pool over vllm.LLM.generate": ("equal lengths", "pool", "vllm.LLM.generate"),
    "pool over vllm.LLM.generate, equal draws": ("equal lengths", "pool", "vllm.LLM.generate, drawing as the pool"),
    "pool over Ray Data": ("equal lengths", "pool", "Ray Data"),
    "streamed over barrier": ("heavy tail", "pool, streamed", "pool, a barrier after each shard"),
    "streamed over Ray Data, heavy tail": ("heavy tail", "pool, streamed", "Ray Data"),
    "learned over fixed, little memory": ("little memory", "learned", "fixed"),
}

Measured = tuple[int, float]
"""Tokens and seconds."""

BARE = """
import json, sys, time
from amr_pipeline.engines.engine_work import EngineSettings, Work
from amr_pipeline.engines.vllm_engine import VllmEngine
settings = EngineSettings(**json.loads(sys.argv[1]))
engine = VllmEngine(settings)
llm, params = engine._engine, engine._vllm.SamplingParams
print("ready", flush=True)
for line in sys.stdin:
    drawing_as_the_pool, asked = json.loads(line)
    prompts = [{"prompt_token_ids": engine._tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False)} for text, _, _ in asked]
    drawing = lambda seed: {"temperature": 1.0, "seed": seed}
    if drawing_as_the_pool:
        drawing = lambda seed: engine._drawing(Work(work_id="", kind="write", messages=(), seed=seed, temperature=1.0))
    sampling = [params(**drawing(seed), max_tokens=tokens) for _, tokens, seed in asked]
    begun = time.perf_counter()
    found = llm.generate(prompts, sampling, use_tqdm=False)
    print(json.dumps([sum(len(one.outputs[0].token_ids) for one in found), time.perf_counter() - begun]), flush=True)
"""


def random_model(folder: Path, **shape: object) -> str:
    """A model of random weights whose vocabulary is so large that it hardly ever ends an answer by itself.

    Args:
        folder: where it is written.
        shape: fields of its configuration; by default the micro world's.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    micro = Path(model_address(WEIGHTS + "strong", None)[0])
    shutil.copytree(micro, folder)
    config = AutoConfig.from_pretrained(micro)
    # A layer type per layer, which follows from their number, is not to be kept from the micro world's.
    config.update({"vocab_size": 8_192, "max_position_embeddings": CONTEXT, **shape})
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    set_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


class FixedEngine(VllmEngine):
    """An engine that steps one number of requests together, whatever its cache holds: as many as it can, or fewer."""

    number: int | None = None

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._admission = Admission(self.number or self._admission.limit)
        self._admission.see = lambda **_: None


def requests(lengths: Sequence[int], start: int = 0) -> list[Work]:
    """Questions whose answers are cut at these lengths."""
    return [
        Work(
            work_id=f"w{start + place}",
            kind="write",
            messages=(("user", f"What is {(start + place) % 90 + 10}+{place % 30}?"),),
            seed=start + place,
            temperature=1.0,
            max_tokens=tokens,
        )
        for place, tokens in enumerate(lengths)
    ]


def through(pool: Pool, batches: Sequence[Sequence[Work]]) -> Measured:
    """Run batches one after another, each to its end."""
    begun, tokens = time.perf_counter(), 0
    for batch in batches:
        tokens += sum(done.response_tokens for done in pool.run(batch))
    return tokens, time.perf_counter() - begun


def bare(process: "subprocess.Popen[str]", work: Sequence[Work], drawing_as_the_pool: bool = False) -> Measured:
    """The same requests in vLLM alone."""
    assert process.stdin is not None
    assert process.stdout is not None
    asked = [[one.messages[0][1], one.max_tokens, one.seed] for one in work]
    process.stdin.write(json.dumps([drawing_as_the_pool, asked]) + "\n")
    process.stdin.flush()
    tokens, seconds = json.loads(process.stdout.readline())
    return tokens, seconds


def ray_data(model: str, settings: EngineSettings, environment: dict[str, str], work: Sequence[Work]) -> Measured:
    """The same requests through Ray Data's LLM processor, from its first finished batch on."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config = vLLMEngineProcessorConfig(
        model_source=model,
        batch_size=32,
        concurrency=1,
        log_engine_metrics=False,  # else vLLM looks for a part of Ray that is not installed
        engine_kwargs={
            "max_model_len": settings.max_model_len,
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_seqs": settings.sequences,
            # vLLM 0.29 crashes on CPU where the prompt of a request with a seed of its own is split between steps.
            "max_num_batched_tokens": settings.sequences * settings.max_model_len,
            "block_size": 32,
        },
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": environment},
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "messages": [{"role": "user", "content": row["text"]}],
            "sampling_params": {"temperature": 1.0, "max_tokens": row["tokens"], "seed": row["seed"]},
        },
        postprocess=lambda row: {"tokens": row["num_generated_tokens"]},
    )
    rows = [{"text": one.messages[0][1], "tokens": one.max_tokens, "seed": one.seed} for one in work]
    first, tokens = None, 0
    for batch in processor(ray.data.from_items(rows)).iter_batches(batch_size=None):
        if first is None:
            first = time.perf_counter()
            continue
        tokens += int(sum(batch["tokens"]))
    return tokens, time.perf_counter() - (first or 0.0)


def measure(ways: dict[str, Callable[[], Measured]], rounds: int) -> dict[str, dict[str, Any]]:
    """Tokens per second of each way, in turns, the first to go changing."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            tokens, seconds = ways[name]()
            rates[name].append(tokens / seconds)
    return {
        name: {"tokens_per_second": round(statistics.median(found)), "by_round": [round(rate) for rate in found]}
        for name, found in rates.items()
    }


def start_bare(settings: EngineSettings, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """VLLM alone in a process of its own, ready for work (`bare`)."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", BARE, json.dumps(asdict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "ready":
        assert process.poll() is None, "bare vLLM did not start"
    return process


def compared(settings: EngineSettings, environment: dict[str, str], rounds: int) -> dict[str, dict[str, Any]]:
    """Every contestant's figures, by workload."""
    pool, process = Pool(settings, environment, VllmEngine), start_bare(settings, environment)
    pool.open()
    equal = requests([EQUAL_TOKENS] * EQUAL_REQUESTS)
    lengths = [LONG_TOKENS if place == PER_SHARD // 2 else MEDIAN_TOKENS for place in range(PER_SHARD)]
    shards = [requests(lengths, start=shard * PER_SHARD) for shard in range(SHARDS)]
    through(pool, [equal[:64]])
    bare(process, equal[:64])
    same = {
        "pool": lambda: through(pool, [equal]),
        "vllm.LLM.generate": lambda: bare(process, equal),
        "vllm.LLM.generate, drawing as the pool": lambda: bare(process, equal, drawing_as_the_pool=True),
        "Ray Data": lambda: ray_data(settings.model, settings, environment, equal),
    }
    tailed = {
        "pool, streamed": lambda: through(pool, [[work for shard in shards for work in shard]]),
        "pool, a barrier after each shard": lambda: through(pool, shards),
        "Ray Data": lambda: ray_data(
            settings.model, settings, environment, [work for shard in shards for work in shard]
        ),
    }
    figures = {"equal lengths": measure(same, rounds), "heavy tail": measure(tailed, rounds)}
    process.communicate()
    pool.close()
    return figures


def pressed(folder: Path, environment: dict[str, str], rounds: int) -> dict[str, dict[str, Any]]:
    """Tokens per second of both kinds of admission where memory is short."""
    model = random_model(folder, **LARGE_CACHE)
    settings = EngineSettings(model=model, revision=None, max_model_len=CONTEXT, dtype="auto")
    shortest, longest = PRESSED_TOKENS
    step = (longest - shortest) // 12
    work = requests([shortest + step * (place % 13) for place in range(PRESSED_REQUESTS)])
    pools = {
        "learned": Pool(settings, environment, VllmEngine),
        "fixed": Pool(settings, environment, FixedEngine),
    }
    for pool in pools.values():
        pool.open()
    found = measure({name: lambda pool=pool: through(pool, [work]) for name, pool in pools.items()}, rounds)
    for name, pool in pools.items():
        load = pool.replicas[0].load
        found[name]["limit_at_the_end"] = load.limit if load else None
        pool.close()
    return found


def main(rounds: int = ROUNDS, *parts: str) -> None:
    """Print the figures, the last line as one JSON object; `parts` of `PARTS`, by default both."""
    if strangers := set(parts) - set(PARTS):
        raise SystemExit(f"there is no part {', '.join(sorted(strangers))}; wanted some of {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = random_model(Path(scratch, "model"))
        settings = EngineSettings(model=model, revision=None, max_model_len=CONTEXT, dtype="auto")
        pools = EnginePools(ray_address=None, cache=Path(scratch, "cache"), max_engines=1)
        ensure_ray()
        environment = pools._environment(settings)
        if not parts or "contestants" in parts:
            figures |= compared(settings, environment, rounds)
            print(json.dumps(figures), flush=True)
        if not parts or "little-memory" in parts:
            figures["little memory"] = pressed(Path(scratch, "large"), environment, min(rounds, PRESSED_ROUNDS))
        pools.close()
    ratios = {
        name: _ratio(figures[workload], one, other)
        for name, (workload, one, other) in RATIOS.items()
        if workload in figures
    }
    print(json.dumps(figures, indent=1))
    measured = {"benchmark": "generation", **figures, "ratios": ratios, "rounds": rounds}
    load = {"load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps({**measured, **load, **measured_on("vllm", "ray", "torch")}))


def _ratio(found: dict[str, dict[str, Any]], one: str, other: str) -> float:
    return round(found[one]["tokens_per_second"] / found[other]["tokens_per_second"], 2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else ROUNDS, *sys.argv[2:])
