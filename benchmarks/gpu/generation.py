"""The vLLM path on a GPU: `python -m benchmarks.gpu.generation [1.5b|7b] [ROUNDS]`; `tiny` tries the script out on CPU.

Random weights of a Qwen2.5 shape, so that nothing is downloaded. In one run:

- tokens per second of the pool against bare `vllm.LLM.generate` with the same settings, in turns;
- how many requests are stepped together: a fixed 256 against the number that `Admission` learns from the KV cache;
- one engine killed amid its work: every answer once, and the memory of the dead process given back.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from amr_pipeline.engines.engine_pools import EnginePools
from amr_pipeline.engines.engine_replicas import Pool
from amr_pipeline.engines.engine_work import EngineSettings
from amr_pipeline.engines.ray_cluster import ensure_ray
from amr_pipeline.engines.vllm_engine import VllmEngine
from benchmarks.generation import FixedEngine, bare, measure, random_model, requests, start_bare, through
from benchmarks.versions import measured_on

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "dtype": "bfloat16",
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
}
"""Qwen2.5's own shapes."""

CONTEXT = 4_096
NUM_REQUESTS, TOKENS = 2_000, 512


class FixedAt256(FixedEngine):
    """The number that pools used before they learned it."""

    number = 256


def used_mebibytes() -> int | None:
    """Memory in use on the first GPU, None where there is none."""
    try:
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError):
        return None


def a_kill(pool: Pool, num_requests: int, tokens: int) -> dict[str, Any]:
    """Kill the engine's process when a tenth is answered; what came of it."""
    before, answered, killed = used_mebibytes(), [], False
    begun = time.perf_counter()
    for done in pool.run(requests([tokens] * num_requests)):
        answered.append(done.work_id)
        if not killed and len(answered) >= num_requests // 10:
            killed = True
            for one in psutil.Process().children(recursive=True):
                if any("VllmEngine" in word for word in one.cmdline()[:1]):
                    one.kill()
    return {
        "requests": num_requests,
        "answered once": len(answered) == len(set(answered)) == num_requests,
        "seconds": round(time.perf_counter() - begun, 1),
        "gpu mebibytes before": before,
        "gpu mebibytes after": used_mebibytes(),
    }


def main(shape: str = "1.5b", rounds: int = 3) -> None:
    """Print the figures, the last line as one JSON object."""
    on_gpu = shape != "tiny"
    num_requests, tokens = (NUM_REQUESTS, TOKENS) if on_gpu else (200, 16)
    with tempfile.TemporaryDirectory() as scratch:
        model = random_model(Path(scratch, "model"), **SHAPES[shape], max_position_embeddings=CONTEXT)
        settings = EngineSettings(
            model=model, revision=None, max_model_len=CONTEXT if on_gpu else 1024, dtype="auto", gpus=float(on_gpu)
        )
        environment = EnginePools(ray_address=None, cache=Path(scratch, "cache"), max_engines=1)._environment(settings)
        ensure_ray()
        work, figures = requests([tokens] * num_requests), {}
        # One engine at a time: each takes most of the GPU's memory.
        rates: dict[str, Callable[[], tuple[int, float]]] = {}
        for name, engine in (("fixed at 256", FixedAt256), ("learned", VllmEngine)):
            pool = Pool(settings, environment, engine)
            pool.open()
            through(pool, [work[:64]])
            rates[name] = lambda pool=pool: through(pool, [work])
            figures |= measure({f"pool, {name}": rates[name]}, rounds)
            if name == "learned":
                figures["killed amid its work"] = a_kill(pool, num_requests, tokens)
            pool.close()
            time.sleep(10 if on_gpu else 0)
        process = start_bare(settings, environment)
        bare(process, work[:64])
        figures |= measure({"vllm.LLM.generate": lambda: bare(process, work)}, rounds)
        process.communicate()
    print(json.dumps({"benchmark": "gpu_generation", "shape": shape, **figures, **measured_on("vllm", "ray", "torch")}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "1.5b", int(sys.argv[2]) if len(sys.argv) > 2 else 3)
