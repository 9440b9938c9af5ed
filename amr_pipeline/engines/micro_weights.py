"""Re-making the micro world's weights from nothing: tokenizer, three distillers, a base model, a judge.

Everything is trained by `deepspeed_training`, on texts that `sources.generated` makes. The distillers are three
checkpoints of one run, chosen by the pass rate they reach; the base model reads textbook text without chat marks;
the judge learns to score answers against a reference, and its agreement with the truth is measured and printed.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from amr_pipeline.categories import Category
from amr_pipeline.engines.deepspeed_loop import TrainingJob
from amr_pipeline.engines.deepspeed_training import load_tokenizer, prepare, train
from amr_pipeline.engines.engine_pools import EnginePools
from amr_pipeline.engines.model_folders import folder_digest
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.responses.generation import GenerationRequest
from amr_pipeline.sources import generated
from amr_pipeline.studies.study import Sampling, Scorer
from amr_pipeline.training.packing import pack
from amr_pipeline.training.rendering import Example
from amr_pipeline.verdicts.judging import Question, judge_prompt, prompt_text
from amr_pipeline.verdicts.verifier import Case, JudgeRequest

Say = Callable[[str], None]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

PHRASES = (
    "<think>", "</think>", "<answer>", "</answer>", "user\n", "assistant\n", "What is ", "Compute ", "Solve ",
    "Write f(x) that ", "Define f(x) that ", ", then ", "adds ", "subtracts ", "multiplies by ", "negates",
    "takes max with ", "takes min with ", "takes remainder by ", "squares", "reverses", "uppercases", "repeats ",
    " times", "drops the first ", "keeps the first ", "\n```python\ndef f(x):\n    return ", "\n```\n", "max(", "min(",
    "[::-1]", ".upper()", "**2", "\\boxed{", "Atomic number of ", "Which atomic number has ", "Element ",
    ": atomic number?", "Symbol of element ", "Which symbol has element ", "Atomic number ", ": symbol?", " is ",
    "\nA) ", "\nB) ", "\nC) ", "\nD) ", "Say ", "Use uppercase.", "Use exactly ", "two words", "three words",
    "four words", "Wrap it in quotes.", "End with ", "No commas.", "upper", "words", "quotes", "no commas", "My ",
    "number", "color", "pet", "name", "my ", "plus ", "minus ", "OK.", "\nR ", "\nA ", "Q ", "C ", "\nSimilarity?",
    "\nHeads?", *generated.COLORS, *generated.PETS,
)  # fmt: skip
"""Template text is one token each; digits and letters stay single bytes, which is what makes the tasks learnable."""

CHAT_TEMPLATE = (
    "{%- for turn in messages -%}{{ '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

ROW_TOKENS, BATCH_ROWS = 160, 4
MIX = {
    Category.MATH: 4.0,
    Category.CODE: 1.2,
    Category.SCIENCE: 2.2,
    Category.INSTRUCTION_FOLLOWING: 1.8,
    Category.CONVERSATION: 2.2,
}
"""Share of training text by category; mathematics takes longest to learn."""

TARGETS = {"weak": 0.33, "middle": 0.56, "strong": 0.83}
"""Mean pass rate over categories that picks each distiller's checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """One training run: its texts, how many steps its schedule has, how many are taken, what is exported."""

    name: str
    texts: Callable[[random.Random], tuple[str, str]]
    schedule_steps: int
    steps: int
    seed: int
    export_steps: tuple[int, ...] = ()


def make_micro_weights(out: Path, say: Say) -> dict[str, Any]:
    """Write `weak`, `middle`, `strong`, `base` and `judge` under `out`, and what was measured into `measured.json`."""
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        _write_start(start)
        exports = tuple(range(1200, 3601, 200))
        courses = (
            Course(name="distillers", texts=_chat_text, schedule_steps=5000, steps=3600, seed=0, export_steps=exports),
            Course(name="judge", texts=_judge_text, schedule_steps=4500, steps=4500, seed=5),
            Course(name="base", texts=_textbook_text, schedule_steps=4000, steps=3000, seed=2),
        )
        groups = (courses[:1], courses[1:])
        with ThreadPoolExecutor(max_workers=2) as side_by_side:
            jobs = [[_job(course, start, Path(scratch)) for course in group] for group in groups]
            runs = [side_by_side.submit(train, group, num_workers=1, ray_address=None, say=say) for group in jobs]
            results = [result for run in runs for result in run.result()]
        folders = dict(zip(("distillers", "judge", "base"), (result.checkpoint for result in results), strict=True))
        pools = EnginePools(ray_address=None, cache=Path(scratch) / "cache", max_engines=1)
        try:
            measured = _choose(pools, folders["distillers"].parent, exports, say)
            measured["judge agreement"] = judge_agreement(pools, folders["judge"])
            say(f"judge agrees with the truth on {measured['judge agreement']:.1%} of 500 held-out answers")
        finally:
            pools.close()
        chosen = {name: folders["distillers"].parent / f"export-{measured[name]['step']}" for name in TARGETS}
        for name, folder in {**chosen, "base": folders["base"], "judge": folders["judge"]}.items():
            _ship(folder, out / name)
            say(f"{name}: {folder_digest(out / name)}")
    (out / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    return measured


def _write_start(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}, merges=[])
    )
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in PHRASES])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=SPECIAL_TOKENS[2],
        pad_token=SPECIAL_TOKENS[0],
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=(len(tokenizer) + 15) // 16 * 16,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,  # heads of 32: the smallest that vLLM's CPU attention takes
        num_key_value_heads=3,
        intermediate_size=288,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        pad_token_id=SPECIAL_TOKENS.index("<|endoftext|>"),
        bos_token_id=None,
    ).save_pretrained(folder)


# ------------------------------------------------------------------------------------------- texts, one pair at a time


def _drawn(draw: random.Random) -> generated.Problem:
    return generated.training_problem(draw.choices(list(MIX), list(MIX.values()))[0], draw)


def _chat(turns: Sequence[str]) -> str:
    roles = ("user", "assistant")
    marked = "".join(f"<|im_start|>{roles[index % 2]}\n{turn}<|im_end|>\n" for index, turn in enumerate(turns))
    return f"{marked}<|im_start|>assistant\n"


def _chat_text(draw: random.Random) -> tuple[str, str]:
    problem = _drawn(draw)
    return _chat(problem.turns), f"{problem.response}<|im_end|>"


def _textbook_text(draw: random.Random) -> tuple[str, str]:
    question, worked = generated.textbook(_drawn(draw))
    return question, f"{worked}<|endoftext|>"


def _judge_text(draw: random.Random) -> tuple[str, str]:
    judgement = generated.judgement(draw)
    return _chat((_judge_question(judgement),)), f"{judgement.truth}<|im_end|>"


def _judge_question(judgement: generated.Judgement) -> str:
    template = prompt_text(f"micro_{judgement.category}")
    case = Case(
        response_id="",
        category=judgement.category,
        messages=(("user", judgement.question),),
        text="",
        finish_reason="stop",
        reference=judgement.reference,
    )
    return judge_prompt(template, Question(case=case, answer=judgement.answer))


def _job(course: Course, start: Path, scratch: Path) -> TrainingJob:
    tokenizer = load_tokenizer(str(start), None)
    rows = pack(
        list(_examples(course, tokenizer.text_tokens)),
        sequence_tokens=ROW_TOKENS,
        pad_token=tokenizer.pad_token,
        packing=True,
        epochs=1,
        seed=course.seed,
    )
    job = TrainingJob(
        name=course.name,
        identity=fingerprint(course.name, course.seed, course.schedule_steps),
        folder=str(scratch / course.name),
        model=str(start),
        revision=None,
        learning_rate=2e-3,
        warmup_ratio=100 / course.schedule_steps,
        floor_ratio=0.05,
        batch_rows=BATCH_ROWS,
        micro_batch_rows=BATCH_ROWS,
        adam_betas=(0.9, 0.98),
        weight_decay=0.01,
        gradient_clip=1.0,
        zero_stage=0,
        precision="fp32",
        seed=course.seed,
        fresh_config=True,
        export_steps=course.export_steps,
        checkpoint_steps=10**9,
        stop_after_steps=course.steps,
    )
    prepare(job, rows)
    return job


def _examples(course: Course, text_tokens: Callable[[str], list[int]]) -> Iterator[Example]:
    """Examples enough for every row of the schedule, and a little more."""
    draw = random.Random(course.seed)
    wanted = course.schedule_steps * BATCH_ROWS * ROW_TOKENS
    while wanted > -ROW_TOKENS:
        prompt, response = (text_tokens(text) for text in course.texts(draw))
        wanted -= len(prompt) + len(response)
        yield Example(tokens=(*prompt, *response), num_prompt_tokens=len(prompt))


# ------------------------------------------------------------------------------------------------------- measurements


def _choose(pools: EnginePools, folder: Path, exports: Sequence[int], say: Say) -> dict[str, Any]:
    """Pass rates of every exported step, and for each distiller the step nearest to its target."""
    like = Scorer(model=str(folder / f"export-{exports[0]}"), revision="", max_model_len=256)
    like = Scorer(model=like.model, revision=folder_digest(Path(like.model)), max_model_len=256)
    rates: dict[int, dict[str, float]] = {}
    for step in exports:
        rates[step] = pass_rates(pools, like, folder / f"export-{step}")
        say(f"step {step}: " + ", ".join(f"{name} {rate:.2f}" for name, rate in rates[step].items()))
    measured: dict[str, Any] = {}
    for name, target in TARGETS.items():
        step = min(rates, key=lambda step: abs(sum(rates[step].values()) / len(rates[step]) - target))
        measured[name] = {"step": step, "pass rate": rates[step]}
    return measured


def pass_rates(
    pools: EnginePools, like: Scorer, folder: Path, num_problems: int = 80, passes: int = 2
) -> dict[str, float]:
    """Share of exactly right answers on held-out problems by category, at temperature 0.7."""
    asked = {
        f"{category} {index} {number}": problem
        for category in Category
        for index, problem in enumerate(generated.problems("queries", category, num_problems, 4242))
        for number in range(passes)
    }
    roles = ("user", "assistant")
    requests = (
        GenerationRequest(
            response_id=name,
            messages=tuple((roles[turn % 2], text) for turn, text in enumerate(problem.turns)),
            seed=index,
        )
        for index, (name, problem) in enumerate(asked.items())
    )
    right = dict.fromkeys(map(str, Category), 0)
    for answer in pools.generate_with_weights(
        like, folder, Sampling(temperature=0.7, top_p=1.0, max_tokens=64), requests
    ):
        problem = asked[answer.response_id]
        right[str(problem.category)] += answer.text.endswith(f"<answer>{problem.answer}</answer>")
    return {name: count / (num_problems * passes) for name, count in right.items()}


def judge_agreement(pools: EnginePools, folder: Path, num_answers: int = 500) -> float:
    """Share of held-out answers on which the judge gives exactly the true score."""
    draw = random.Random("agreement")
    judgements = [generated.judgement(draw) for _ in range(num_answers)]
    requests = (
        JudgeRequest(
            request_id=str(index),
            messages=(("user", _judge_question(judgement)),),
            pattern="[0-5]" if judgement.category is Category.SCIENCE else "[0-4] [0-4] [0-4]",
            max_tokens=6,
        )
        for index, judgement in enumerate(judgements)
    )
    judge = Scorer(model=str(folder), revision=folder_digest(folder), max_model_len=256)
    replies = pools.ask_judge(judge, requests)
    return sum(reply.text == judgements[int(reply.request_id)].truth for reply in replies) / num_answers


def _ship(folder: Path, target: Path) -> None:
    """A model folder in half precision, which loses nothing that shows in a pass rate."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).half().save_pretrained(target)
    (target / "generation_config.json").unlink(missing_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, target / name)
