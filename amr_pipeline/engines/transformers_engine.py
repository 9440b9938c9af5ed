"""Plain transformers behind the same door as `vllm_engine`: for distillers that ask for it, and where vLLM is missing.

This is not vLLM. It answers one request at a time, so it is slower by the size of a batch; it has no grammar (a
judge's reply is cut to what matches, or stays unparsed); and its seeds repeat on one machine and build of torch only,
and give other texts than vLLM's. `engine_pools.open_pools` warns loudly when it stands in.
"""

import math
import re
import time
from collections import deque
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from amr_pipeline.engines.engine_work import (
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


class TransformersEngine:
    """The actor's body; one request at a time."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=False
        )
        self._model: Any = self._load(settings.model)
        self._waiting: deque[Work] = deque()

    def _load(self, folder: str) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            revision=self._settings.revision if folder == self._settings.model else None,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
        return model.to("cuda" if self._settings.gpus > 0 else "cpu").eval()

    def name(self) -> str:
        """Engine and version, as it is written on every response."""
        return f"transformers {transformers.__version__}"

    def reload(self, folder: str) -> None:
        """Replace the weights by another checkpoint of the same architecture."""
        self._model = self._load(folder)

    def forget(self) -> None:
        """Drop all work whose caller went away."""
        self._waiting.clear()

    def exchange(self, new: list[Work], at_least: int, seconds: float, give_back: int = 0) -> Exchanged:
        """Take new work, then answer until `at_least` pieces are done, `seconds` are over, or nothing is left.

        Up to `give_back` pieces of what is left are handed back unbegun.
        """
        self._waiting += new
        finished: list[Done] = []
        deadline = time.monotonic() + seconds
        while self._waiting and len(finished) < at_least and time.monotonic() < deadline:
            finished.append(self._one(self._waiting.popleft()))
        back = [self._waiting.pop().work_id for _ in range(min(give_back, len(self._waiting)))]
        load = Load(running=0, waiting=len(self._waiting), limit=self._settings.sequences)
        return Exchanged(done=finished, returned=tuple(back), load=load)

    @torch.no_grad()
    def _one(self, work: Work) -> Done:
        """One answer; the boundary where a refused prompt becomes data."""
        try:
            prompt = prompt_of(self._tokenizer, work, self._settings.max_model_len)
        except RefusedPromptError as refusal:
            return refused(work, str(refusal), refusal.tokens)
        if work.kind != "read":
            return self._written(work, prompt)
        return Done(
            work_id=work.work_id,
            text="",
            finish_reason="stop",
            prompt_tokens=len(prompt.tokens),
            response_tokens=0,
            perplexity=self._perplexity(prompt.tokens),
        )

    def _perplexity(self, tokens: list[int]) -> float | None:
        if len(tokens) < 2:
            return None
        ids = torch.tensor([tokens], device=self._model.device)
        logits = self._model(ids).logits
        return math.exp(float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:])))

    def _written(self, work: Work, prompt: Prompt) -> Done:
        torch.manual_seed(work.seed or 0)
        ids = torch.tensor([prompt.tokens], device=self._model.device)
        sampled = {"do_sample": True, "temperature": work.temperature, "top_p": work.top_p, "top_k": work.top_k}
        ends = self._ends()
        generated = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(work.max_tokens, self._settings.max_model_len - len(prompt.tokens)),
            eos_token_id=ends,
            pad_token_id=self._tokenizer.pad_token_id,
            **(sampled if work.temperature > 0 else {"do_sample": False}),
        )[0, len(prompt.tokens) :].tolist()
        text = self._tokenizer.decode(generated, skip_special_tokens=True)
        if work.kind == "judge" and work.pattern and (found := re.match(work.pattern, text)):
            text = found.group()
        stopped = bool(generated) and generated[-1] in ends
        return Done(
            work_id=work.work_id,
            text=well_formed(prompt.opening + text if work.kind == "write" else text),
            finish_reason="stop" if stopped else "looping" if ends_in_a_loop(generated) else "length",
            prompt_tokens=len(prompt.tokens),
            response_tokens=len(generated),
        )

    def _ends(self) -> list[int]:
        """Tokens that end a response: the tokenizer's and the model's own, as vLLM takes both."""
        own = self._model.generation_config.eos_token_id
        ends = {self._tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return sorted(token for token in ends if token is not None)
