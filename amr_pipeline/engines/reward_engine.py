"""A reward model behind the same door as the other engines: a conversation in, one number per head out.

Reward models with regression heads are sequence classifiers; their numbers are the classifier's outputs, in the order
of its labels. One conversation at a time, by plain transformers: a single forward pass each, no tokens are written.
"""

import time
from collections import deque
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amr_pipeline.engines.engine_work import (
    Done,
    EngineSettings,
    Exchanged,
    Load,
    RefusedPromptError,
    Work,
    prompt_of,
    refused,
)


class RewardEngine:
    """The actor's body."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=False
        )
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            settings.model,
            revision=settings.revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32 if settings.gpus == 0 else torch.bfloat16,
        )
        self._model: Any = model.to("cuda" if settings.gpus > 0 else "cpu").eval()
        self._waiting: deque[Work] = deque()

    def name(self) -> str:
        """Engine and version."""
        return f"transformers {transformers.__version__}, heads"

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
        """The heads of one conversation; the boundary where a refused prompt becomes data."""
        if work.kind != "rate":
            return refused(work, "a reward model rates and does nothing else")
        try:
            tokens = prompt_of(self._tokenizer, work, self._settings.max_model_len).tokens
        except RefusedPromptError as refusal:
            return refused(work, str(refusal), refusal.tokens)
        logits = self._model(torch.tensor([tokens], device=self._model.device)).logits[0]
        return Done(
            work_id=work.work_id,
            text="",
            finish_reason="stop",
            prompt_tokens=len(tokens),
            response_tokens=0,
            heads=tuple(float(value) for value in logits),
        )
