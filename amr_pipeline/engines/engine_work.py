"""What goes into an engine and what comes out: settings, work, answers, load, and the text of a prompt.

Shared by both engine families and by the pools. Nothing here loads a model library, so a driver without one can
describe work. Model output and queries are hostile: whatever a text holds, a piece of work ends as one `Done`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Family = Literal["vllm", "transformers", "reward"]

CPU_SEQUENCES = 64
"""Requests stepped together on CPU; more only waits longer for the same cores."""

CPU_STEP_TOKENS = 2**13
"""Tokens of one step on CPU at most: the engine allocates for them when it starts, and longer prompts are split."""

GPU_SEQUENCES = 256
"""Requests stepped together on a GPU, until the engine has said how many it takes (`Load`)."""


CAUSE_CHARACTERS = 200
"""Kept of what a death came down to, with each response that it hit: Ray goes on at length."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What makes two engines the same: weights, and how they are loaded.

    Attributes:
        gpus: GPUs of one engine; 0 runs it on CPU.
        gpu_kinds: kinds that these may be, as labels of Ray's nodes name them; none: any.
        family: which engine class.
    """

    model: str
    revision: str | None
    max_model_len: int
    dtype: str
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpus: float = 0.0
    gpu_kinds: tuple[str, ...] = ()
    family: Family = "vllm"

    @property
    def num_workers(self) -> int:
        """Processes that hold a share of the weights each."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def spans_workers(self) -> bool:
        """Whether one engine is several processes with a GPU each."""
        return self.gpus > 0 and self.num_workers > 1

    @property
    def sequences(self) -> int:
        """Requests stepped together at most, if memory has room for them; on a GPU, a first guess."""
        return GPU_SEQUENCES if self.gpus > 0 else CPU_SEQUENCES


@dataclass(frozen=True, kw_only=True)
class Work:
    """One request to an engine.

    Attributes:
        kind: "write" a response, "read" a text for its perplexity, "judge" in a grammar, or "rate" a conversation
            whose last turn is the assistant's.
        messages: (role, content) turns; text: what a "read" appends to them.
        pattern: regex that a "judge" reply must match.
    """

    work_id: str
    kind: Literal["write", "read", "judge", "rate"]
    messages: tuple[tuple[str, str], ...]
    text: str = ""
    seed: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1
    pattern: str | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of one piece of work; `perplexity` only for "read", `heads` only for "rate".

    Attributes:
        attempts: times it was asked, 1 where no engine died with it; `last_failure`: what the last death came down to.
    """

    work_id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    response_tokens: int
    perplexity: float | None = None
    heads: tuple[float, ...] | None = None
    attempts: int = 1
    last_failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Load:
    """How full an engine is.

    Attributes:
        running: requests that are stepped together.
        waiting: requests that it was given and has not begun.
        limit: requests that it would step together at most, as things are.
        kv_use: share of its KV cache that is in use, 0 to 1; None for an engine that has none.
    """

    running: int
    waiting: int
    limit: int
    kv_use: float | None = None


def after_failures(done: Done, number: int, last: str | None) -> Done:
    """The same, with attempts on top that were in vain before; `last`: why the last of them failed."""
    if not number:
        return done
    cause = done.last_failure or (last or "")[:CAUSE_CHARACTERS]
    return replace(done, attempts=done.attempts + number, last_failure=cause)


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """What an engine hands back.

    Attributes:
        done: what finished.
        returned: ids of work that it gives back unbegun, because it was asked to.
        load: how full it is now.
    """

    done: list[Done]
    load: Load
    returned: tuple[str, ...] = ()


def refused(work: Work, reason: str, prompt_tokens: int = 0) -> Done:
    """Work that no engine can do, with the reason as its text."""
    return Done(
        work_id=work.work_id,
        text=well_formed(reason),
        finish_reason="error",
        prompt_tokens=prompt_tokens,
        response_tokens=0,
    )


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced, so that every table can hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ------------------------------------------------------------------------------------------------------------ prompts


class RefusedPromptError(ValueError):
    """A prompt that the model's chat template or context does not take; the message is the reason."""

    def __init__(self, reason: str, tokens: int = 0) -> None:
        super().__init__(reason)
        self.tokens = tokens


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        opening: what the chat template already wrote of the response (`<think>` and a line break), or nothing.
    """

    tokens: list[int]
    opening: str = ""


_OPENED = re.compile(r"<think>\s*\Z")


def prompt_of(tokenizer: Any, work: Work, longest: int) -> Prompt:
    """The prompt of some work, in tokens.

    Templates of R1's family end a prompt with an opened `<think>`. It belongs to the response: without it, thinking
    that never closes would pass for an answer.

    Raises:
        RefusedPromptError: the template refuses the turns, or the prompt leaves no room in the context.
    """
    import jinja2

    turns = [{"role": role, "content": content} for role, content in work.messages]
    if work.kind in ("judge", "rate"):
        turns = [{**turn, "content": without_control(turn["content"], tokenizer)} for turn in turns]
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=work.kind != "rate", tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise RefusedPromptError(f"the chat template refuses these turns: {error}") from error
    opened = _OPENED.search(text)
    opening = opened.group() if opened else ""
    tokens = _tokens(tokenizer, text)
    if work.kind == "read":
        # Apart from the prompt, as the response was written: no token spans both.
        read = work.text.lstrip().removeprefix("<think>").lstrip() if opening else work.text
        tokens += _tokens(tokenizer, read)
    if len(tokens) + 1 > longest:
        raise RefusedPromptError(f"prompt has {len(tokens):,} tokens, the engine takes {longest - 1:,}", len(tokens))
    return Prompt(tokens=tokens, opening=opening)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(well_formed(text), add_special_tokens=False)["input_ids"])


def without_control(text: str, tokenizer: Any) -> str:
    """The text with the model's control tokens broken up.

    A judge reads what a model wrote; `<|im_end|>` in there must not end the judge's own turn.
    """
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, f"{token[:1]}\u200b{token[1:]}")
    return text


# --------------------------------------------------------------------------------------------------------------- loops

LOOP_TOKENS = 33, 64
LOOP_REPEATS = 8
"""An engine stops a response that ends in eight copies of one pattern of 33 to 64 tokens. A shorter pattern counts as
its own multiple, so it must fill 264 tokens or more: eight zeros of a large number are no loop."""

_TAIL = 4_096
_FEWEST_TOKENS, _FEWEST_REPEATS = 160, 4


def ends_in_a_loop(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one pattern over and over: four times or more, 160 tokens or more.

    Asked of responses that used up their budget; engines stop only loops of short patterns while they write.
    """
    tail = list(tokens[-_TAIL:])[::-1]
    left = right = 0
    matching = [0] * len(tail)
    for index in range(1, len(tail)):
        length = min(right - index, matching[index - left]) if index < right else 0
        while index + length < len(tail) and tail[length] == tail[index + length]:
            length += 1
        if index + length > right:
            left, right = index, index + length
        matching[index] = length
        if index + length >= max(_FEWEST_TOKENS, _FEWEST_REPEATS * index):
            return True
    return False
