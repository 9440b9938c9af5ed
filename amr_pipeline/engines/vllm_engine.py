"""vLLM inside one Ray actor: takes work, steps the engine, gives back what finished.

Work of all kinds (writing, reading for perplexity, judging in a grammar) shares one warm engine. The caller keeps it
fed with `exchange`; there is no barrier between batches, so one partition's tail overlaps the next one's head.

Measured traps that the settings answer (vLLM 0.29 on CPU): the default mode compiles for minutes; seeded requests
whose prefill is split crash, and their draws take half of all time (`seeded_sampling` draws instead); prompt logprobs
compile a kernel for 20 s; supported head sizes start at 32.
"""

import gc
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amr_pipeline.engines.admission import Admission
from amr_pipeline.engines.engine_work import (
    CPU_STEP_TOKENS,
    LOOP_REPEATS,
    LOOP_TOKENS,
    Done,
    EngineSettings,
    Exchanged,
    Load,
    Prompt,
    RefusedPromptError,
    Work,
    ends_in_a_loop,
    prompt_of,
    refused,
    well_formed,
)
from amr_pipeline.engines.start_checks import needs_of, refuse_what_does_not_fit

DRAWS = "draws 1"
"""How `seeded_sampling` makes tokens of a seed; another number where it makes others."""


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """Work that the engine holds."""

    work: Work
    opening: str


class _Fullness:
    """The newest statistics of the engine's core, in place of vLLM's loggers."""

    running, waiting, kv_use = 0, 0, 0.0

    def record(self, scheduler_stats: Any, **_: Any) -> None:
        """Called by vLLM after every step."""
        self.running, self.waiting = scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs
        self.kv_use = scheduler_stats.kv_cache_usage


def _watch(llm_engine: Any) -> _Fullness:
    """Have the core's statistics and nothing else.

    Those of every request and token, which vLLM would collect as well, cost 15 % of a small model's speed on CPU.
    """
    fullness = _Fullness()
    llm_engine.log_stats = llm_engine.output_processor.log_stats = False
    llm_engine.logger_manager = fullness
    llm_engine.do_log_stats_with_interval = lambda: None
    return fullness


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Leave garbage alone: looking through the millions of objects that loading makes is a sixth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class VllmEngine:
    """The actor's body; one engine, driven by one caller at a time."""

    def __init__(self, settings: EngineSettings) -> None:
        with _nothing_collected():
            self._engine = self._loaded(settings)
        self._fullness = _watch(self._engine.llm_engine)
        self._admission = Admission(self._engine.llm_engine.vllm_config.scheduler_config.max_num_seqs)
        self._tokenizer = self._engine.get_tokenizer()
        self._longest = settings.max_model_len
        self._waiting: deque[Work] = deque()
        self._pending: dict[str, _Pending] = {}

    def _loaded(self, settings: EngineSettings) -> Any:
        # Imported here because the class travels to the actor, and only there may vLLM be loaded: its import
        # reads the environment that the actor was started with.
        import vllm

        refuse_what_does_not_fit(settings, needs_of(_folder_of(settings), settings), _memory(settings))
        self._vllm, self._on_gpu = vllm, settings.gpus > 0
        return vllm.LLM(
            model=settings.model,
            revision=settings.revision,
            tokenizer_revision=settings.revision,
            max_model_len=settings.max_model_len,
            tensor_parallel_size=settings.tensor_parallel_size,
            pipeline_parallel_size=settings.pipeline_parallel_size,
            trust_remote_code=False,
            load_format="safetensors",  # never a pickle, even where a repository has both
            generation_config="vllm",
            seed=0,
            disable_log_stats=False,  # the engine's core says how full it is only with statistics on
            **_shape(settings),
        )

    def name(self) -> str:
        """Engine and version, as it is written on every response; where seeds are drawn here, by which way."""
        return f"vllm {self._vllm.__version__}" + ("" if self._on_gpu else f", {DRAWS}")

    def reload(self, folder: str) -> None:
        """Replace the weights by another checkpoint of the same architecture."""
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        if not self._on_gpu:
            self._engine.apply_model(_repack_output_layer)
        self._engine.reset_prefix_cache()

    def forget(self) -> None:
        """Drop all work whose caller went away."""
        self._engine.llm_engine.abort_request(list(self._pending))
        self._pending.clear()
        self._waiting.clear()

    def exchange(self, new: list[Work], at_least: int, seconds: float, give_back: int = 0) -> Exchanged:
        """Take new work, then step until `at_least` pieces are done, `seconds` are over, or nothing is left.

        Work waits here, and not inside vLLM, until the KV cache has room for it; up to `give_back` pieces of what
        waits in the end are handed back unbegun.
        """
        self._waiting += new
        finished = self._admit()
        deadline = time.monotonic() + seconds
        while self._pending and len(finished) < at_least and time.monotonic() < deadline:
            finished += self._step()
            finished += self._admit()
        back = [self._waiting.pop().work_id for _ in range(min(give_back, len(self._waiting)))]
        return Exchanged(done=finished, returned=tuple(back), load=self._load())

    def _step(self) -> list[Done]:
        """One token for everything that runs; what came to its end."""
        ended = [output for output in self._engine.llm_engine.step() if output.finished]
        full = self._fullness
        self._admission.see(running=full.running, waiting=full.waiting, kv_use=full.kv_use)
        if ended:
            self._admission.finished(len(ended), full.kv_use)
        return [self._done(self._pending.pop(output.request_id), output) for output in ended]

    def _admit(self) -> list[Done]:
        """Begin what there is room for; what cannot be done at all."""
        refusals: list[Done] = []
        while self._waiting and len(self._pending) < self._admission.limit:
            done = self._add(self._waiting.popleft())
            if done is not None:
                refusals.append(done)
        return refusals

    def _load(self) -> Load:
        return Load(
            running=len(self._pending),
            waiting=len(self._waiting),
            limit=self._admission.limit,
            kv_use=self._fullness.kv_use if self._pending else 0.0,
        )

    def _add(self, work: Work) -> Done | None:
        """Queue one piece of work, or say at once why it cannot be done: the boundary where a refusal becomes data."""
        try:
            prompt = prompt_of(self._tokenizer, work, self._longest)
        except RefusedPromptError as refusal:
            return refused(work, str(refusal), refusal.tokens)
        tokens: Any = {"prompt_token_ids": prompt.tokens}
        self._engine.llm_engine.add_request(work.work_id, tokens, self._sampling(work, prompt))
        self._pending[work.work_id] = _Pending(work=work, opening=prompt.opening)
        return None

    def _sampling(self, work: Work, prompt: Prompt) -> Any:
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

        # Nobody reads a text before it is finished, so the engine need not put it together after every token.
        make, once = self._vllm.SamplingParams, RequestOutputKind.FINAL_ONLY
        if work.kind == "read":
            return make(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=once)
        if work.kind == "judge":
            grammar = StructuredOutputsParams(regex=work.pattern) if work.pattern else None
            return make(temperature=0.0, max_tokens=work.max_tokens, structured_outputs=grammar, output_kind=once)
        shortest, longest = LOOP_TOKENS
        return make(
            **self._drawing(work),
            max_tokens=min(work.max_tokens, self._longest - len(prompt.tokens)),
            skip_special_tokens=True,
            repetition_detection=RepetitionDetectionParams(
                min_pattern_size=shortest, max_pattern_size=longest, min_count=LOOP_REPEATS
            ),
            output_kind=once,
        )

    def _drawing(self, work: Work) -> dict[str, Any]:
        """How the tokens of a response are drawn: on CPU by `SeededSampling`, to which it is a greedy request."""
        asked = {"temperature": work.temperature, "top_p": work.top_p, "top_k": work.top_k, "seed": work.seed}
        if self._on_gpu or work.seed is None or work.temperature == 0:
            return asked
        from amr_pipeline.engines.seeded_sampling import KEY

        checked = self._vllm.SamplingParams(**asked)  # refuses what it would refuse, and raises what is nearly greedy
        return {
            "temperature": 0.0,
            "extra_args": {KEY: (work.seed, checked.temperature, checked.top_p, max(0, checked.top_k))},
        }

    def _done(self, pending: _Pending, output: Any) -> Done:
        answer, work = output.outputs[0], pending.work
        perplexity = None
        if work.kind == "read":
            perplexity = _perplexity(output.prompt_logprobs, output.prompt_token_ids)
        reason = {"stop": "stop", "length": "length", "repetition": "looping"}.get(answer.finish_reason, "error")
        if reason == "length" and ends_in_a_loop(answer.token_ids):
            reason = "looping"
        return Done(
            work_id=work.work_id,
            text=well_formed(pending.opening + answer.text if work.kind == "write" else answer.text),
            finish_reason=reason,
            prompt_tokens=len(output.prompt_token_ids),
            response_tokens=len(answer.token_ids),
            perplexity=perplexity,
        )


def _folder_of(settings: EngineSettings) -> Path:
    """Where the model's files are, or would be if they were on this disk already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if Path(settings.model).is_dir():
        return Path(settings.model)
    try:
        return Path(snapshot_download(settings.model, revision=settings.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return Path("/nonexistent")


def _memory(settings: EngineSettings) -> int:
    """Bytes that all workers have together: as many GPUs as this one, or what the machine has left."""
    if settings.gpus > 0 and settings.num_workers == 1:
        from vllm.platforms import current_platform

        return current_platform.get_device_total_memory()
    if settings.gpus > 0:
        return sys.maxsize  # the actor of an engine of several workers holds no GPU that it could ask
    import psutil

    return psutil.virtual_memory().available


def _shape(settings: EngineSettings) -> dict[str, Any]:
    """How the engine uses the device."""
    if settings.gpus > 0:
        return {
            "dtype": settings.dtype,
            "gpu_memory_utilization": 0.9,
            # `max_num_seqs` is vLLM's own for the device; how many of them run is what `Admission` learns.
            # The pool reserved one bundle per GPU, on as many nodes as it takes; vLLM's workers go there.
            "distributed_executor_backend": "ray" if settings.num_workers > 1 else "uni",
        }
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "max_num_seqs": settings.sequences,
        "max_num_batched_tokens": CPU_STEP_TOKENS,
        "block_size": 32,
        "logits_processors": ["amr_pipeline.engines.seeded_sampling:SeededSampling"],
    }


def _repack_output_layer(model: Any) -> None:
    """Pack the output layer of a reloaded model again, on CPU.

    vLLM 0.29 repacks every layer it reloads except an output layer that is tied to the embedding, which would go on
    multiplying by the old weights.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)


def _perplexity(logprobs: list[dict[int, Any] | None], tokens: list[int]) -> float | None:
    """Exp of the mean negative log likelihood of all tokens after the first, which has no condition."""
    values = [entry[token].logprob for entry, token in zip(logprobs, tokens, strict=True) if entry is not None]
    return math.exp(-sum(values) / len(values)) if values else None
