"""The micro world: problems of all five categories that a model of a megabyte can learn, with references.

A problem is made from a seeded random stream, so a part of the world is the same on every machine. Problems whose
identity hashes to a held-out bucket never occur in training text; queries and benchmark come from that bucket, and
from disjoint halves of it. Science facts are the exception: a closed-book fact must be in the training text.

Belongs here: problems, worked answers, and the texts micro models are trained on. Does not belong here: rows of sources
(`generated_parts`), tokenizers, training, judging.
"""

import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from amr_pipeline.categories import Category

COLORS = ("red", "blue", "green", "black", "white", "pink", "gray", "gold")
PETS = ("cat", "dog", "fish", "bird", "frog", "horse", "mouse", "goat")
# fmt: off
ELEMENTS = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn",
    "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr",
)
# fmt: on
COUNTS = {2: "two words", 3: "three words", 4: "four words"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem with its worked answer.

    Attributes:
        identity: the problem without its wording; decides whether it is held out.
        turns: alternating user and assistant texts, the last one by the user.
        think: the steps to the answer; answer: what stands in the answer tags.
        reference: what the answer is compared with.
    """

    category: Category
    kind: str
    identity: str
    turns: tuple[str, ...]
    think: str
    answer: str
    reference: str | None = None
    test_cases: str | None = None
    constraints: str | None = None

    @property
    def response(self) -> str:
        """The worked answer as a distiller writes it."""
        return f"<think>{self.think}</think><answer>{self.answer}</answer>"


def _carry_steps(left: int, right: int, operator: str, places: int) -> str:
    """Digit by digit with carry, lowest place first: `3-8-0=15` reads 3 minus 8 minus carry 0: carry 1, digit 5."""
    carry, lines = 0, []
    for place in range(places):
        a, b = left // 10**place % 10, right // 10**place % 10
        value = a + b + carry if operator == "+" else a - b - carry
        next_carry = value // 10 if operator == "+" else int(value < 0)
        lines.append(f"{a}{operator}{b}{operator}{carry}={next_carry}{value % 10}")
        carry = next_carry
    return "\n".join(lines)


def math_problem(draw: random.Random) -> Problem:
    """Addition or subtraction of up to two digits, worked digit by digit."""
    places = 2 if draw.random() < 0.75 else 1
    left = draw.randint(10, 99) if places == 2 else draw.randint(0, 9)
    right = draw.randint(1, 99) if places == 2 else draw.randint(0, 9)
    operator = draw.choice("+-")
    if operator == "-" and left < right:
        left, right = right, left
    result = left + right if operator == "+" else left - right
    wording = draw.choice(("What is {}?", "Compute {}.", "Solve {}."))
    return Problem(
        category=Category.MATH,
        kind=f"{places} digits {operator}",
        identity=f"math {left}{operator}{right}",
        turns=(wording.format(f"{left}{operator}{right}"),),
        think=_carry_steps(left, right, operator, places),
        answer=f"\\boxed{{{result}}}",
        reference=str(result),
    )


_NUMBER_STEPS: tuple[tuple[str, str, Callable[[int, int], int]], ...] = (
    ("adds {}", "{}+{}", lambda x, n: x + n),
    ("subtracts {}", "{}-{}", lambda x, n: x - n),
    ("multiplies by {}", "{}*{}", lambda x, n: x * n),
    ("negates", "-{}", lambda x, _: -x),
    ("takes max with {}", "max({},{})", max),
    ("takes min with {}", "min({},{})", min),
    ("takes remainder by {}", "{}%{}", lambda x, n: x % n),
    ("squares", "{}**2", lambda x, _: x**2),
)
_STRING_STEPS: tuple[tuple[str, str, Callable[[str, int], str]], ...] = (
    ("reverses", "{}[::-1]", lambda x, _: x[::-1]),
    ("uppercases", "{}.upper()", lambda x, _: x.upper()),
    ("repeats {} times", "{}*{}", lambda x, n: x * n),
    ("drops the first {}", "{}[{}:]", lambda x, n: x[n:]),
    ("keeps the first {}", "{}[:{}]", lambda x, n: x[:n]),
)


def code_problem(draw: random.Random) -> Problem:
    """A function of one argument that composes one or two steps; tests are asserts on its values."""
    on_strings = draw.random() < 0.25
    steps = [draw.choice(_STRING_STEPS if on_strings else _NUMBER_STEPS) for _ in range(draw.choice((1, 2, 2)))]
    numbers = [draw.randint(2, 9) if on_strings else draw.randint(2, 99) for _ in steps]
    described = ", then ".join(text.format(number) for (text, _, _), number in zip(steps, numbers, strict=True))
    expression = "x"
    for (_, form, _), number in zip(steps, numbers, strict=True):
        needs_brackets = (
            expression != "x" and not expression.startswith(("max(", "min(")) and (not on_strings or "*" in expression)
        )
        expression = form.format(f"({expression})" if needs_brackets else expression, number)
    inputs: list[object] = ["hello", "abcdefghijk", "Qw er"] if on_strings else [0, 1, -7, 13, 58]
    asserts = []
    for value in inputs:
        result: Any = value
        for (_, _, function), number in zip(steps, numbers, strict=True):
            result = function(result, number)
        asserts.append(f"assert f({value!r}) == {result!r}")
    wording = draw.choice(("Write f(x) that {}.", "Define f(x) that {}."))
    return Problem(
        category=Category.CODE,
        kind=f"{'string' if on_strings else 'number'} {len(steps)}",
        identity=f"code {described}",
        turns=(wording.format(described),),
        think=expression,
        answer=f"\n```python\ndef f(x):\n    return {expression}\n```\n",
        test_cases=json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": asserts}),
    )


def science_problem(draw: random.Random) -> Problem:
    """A fact about an element: its number, its symbol, or (one in ten) one of four options."""
    index = draw.randrange(len(ELEMENTS))
    number, symbol = index + 1, ELEMENTS[index]
    if draw.random() < 0.1:
        options = [*draw.sample([i for i in range(len(ELEMENTS)) if i != index], 3), index]
        draw.shuffle(options)
        letter = "ABCD"[options.index(index)]
        listed = "".join(f"\n{name}) {ELEMENTS[option]}" for name, option in zip("ABCD", options, strict=True))
        question, think, answer, kind = (
            f"Symbol of element {number}?{listed}",
            f"{number} is {symbol}",
            letter,
            "options",
        )
    elif draw.random() < 0.5:
        wording = draw.choice(("Atomic number of {}?", "Which atomic number has {}?", "Element {}: atomic number?"))
        question, think, answer, kind = wording.format(symbol), f"{symbol} is {number}", str(number), "number"
    else:
        wording = draw.choice(("Symbol of element {}?", "Which symbol has element {}?", "Atomic number {}: symbol?"))
        question, think, answer, kind = wording.format(number), f"{number} is {symbol}", symbol, "symbol"
    return Problem(
        category=Category.SCIENCE,
        kind=kind,
        identity=f"science {question}",
        turns=(question,),
        think=think,
        answer=answer,
        reference=answer,
    )


def _word(draw: random.Random) -> str:
    syllables = "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(2))
    return syllables + draw.choice(("", "n", "s", "r", "x"))


def _constraint(name: str, **arguments: object) -> dict[str, object]:
    return {"id": name, "kwargs": arguments}


def instruction_problem(draw: random.Random) -> Problem:
    """Say a word under one or two constraints, each a standard instruction id."""
    word, other, wishes = _word(draw), _word(draw), draw.sample(("upper", "words", "quotes", "end", "no commas"), 2)
    wishes = wishes[: draw.choice((1, 2, 2))]
    if "words" in wishes:  # an exact word count contradicts a second word
        wishes = [wish for wish in wishes if wish not in ("end", "no commas")]
    body, request = word, f"Say {word}."
    texts: list[str] = []
    constraints = [_constraint("keywords:existence", keywords=[word])]

    def ask(text: str, *wanted: dict[str, object]) -> None:
        texts.append(text)
        constraints.extend(wanted)

    if "no commas" in wishes:
        body, request = f"{word} {other}", f"Say {word}, {other}."
        constraints[0] = _constraint("keywords:existence", keywords=[word, other])
        ask("No commas.", _constraint("punctuation:no_comma"))
    if "words" in wishes:
        count, rule = draw.randint(2, 4), "length_constraints:number_words"
        body = " ".join([word] * count)
        exactly = ({"relation": "at least", "num_words": count}, {"relation": "less than", "num_words": count + 1})
        ask(f"Use exactly {COUNTS[count]}.", *(_constraint(rule, **bound) for bound in exactly))
    if "end" in wishes:
        ending = _word(draw)
        body = f"{body} {ending}"
        ask(f"End with {ending}.", _constraint("startend:end_checker", end_phrase=ending))
    if "upper" in wishes:
        body = body.upper()
        ask("Use uppercase.", _constraint("change_case:english_capital"))
    if "quotes" in wishes:
        body = f'"{body}"'
        ask("Wrap it in quotes.", _constraint("startend:quotation"))
    draw.shuffle(texts)
    question = " ".join([request, *texts])
    return Problem(
        category=Category.INSTRUCTION_FOLLOWING,
        kind="+".join(sorted(wishes)),
        identity=f"instruction {question}",
        turns=(question,),
        think=" ".join(wishes),
        answer=body,
        constraints=json.dumps(constraints),
    )


def conversation_problem(draw: random.Random) -> Problem:
    """Two turns: the user states facts, then asks for one of them or for a small sum with it."""
    kind = draw.choice(("plus", "minus", "recall"))
    number = draw.randint(10, 30) if kind == "minus" else draw.randint(1, 30)
    facts = {"number": str(number), "color": draw.choice(COLORS), "pet": draw.choice(PETS), "name": _word(draw)}
    if kind == "recall":
        stated = draw.sample(list(facts), draw.choice((1, 2, 3)))
        asked = draw.choice(stated)
        question, think, answer = f"What is my {asked}?", f"{asked} is {facts[asked]}", facts[asked]
    else:
        stated = [*draw.sample(("color", "pet", "name"), draw.choice((0, 1))), "number"]
        step, operator = draw.randint(1, 5), "+" if kind == "plus" else "-"
        result = number + step if kind == "plus" else number - step
        question = f"What is my number {kind} {step}?"
        think = f"{number}{operator}{step}\n" + _carry_steps(number, step, operator, 2 if number > 9 else 1)
        answer = str(result)
    draw.shuffle(stated)
    told = " ".join(f"My {name} is {facts[name]}." for name in stated)
    return Problem(
        category=Category.CONVERSATION,
        kind=kind,
        identity=f"conversation {told} {question}",
        turns=(told, "OK.", question),
        think=think,
        answer=answer,
        reference=answer,
    )


PROBLEMS: dict[Category, Callable[[random.Random], Problem]] = {
    Category.MATH: math_problem,
    Category.CODE: code_problem,
    Category.SCIENCE: science_problem,
    Category.INSTRUCTION_FOLLOWING: instruction_problem,
    Category.CONVERSATION: conversation_problem,
}


def split_of(problem: Problem) -> str:
    """`training`, `queries` or `benchmark`: decided by the problem alone, so the three never share one."""
    bucket = zlib.crc32(problem.identity.encode()) % 10
    if bucket >= 3:
        return "training"
    return "queries" if bucket < 2 else "benchmark"


def problems(split: str, category: Category, num_problems: int, seed: int) -> Iterator[Problem]:
    """Distinct problems of one category and split, in a seeded order."""
    draw, seen = random.Random(f"{seed} {split} {category}"), set()
    while len(seen) < num_problems:
        problem = PROBLEMS[category](draw)
        if split_of(problem) == split and problem.identity not in seen:
            seen.add(problem.identity)
            yield problem


def training_problem(category: Category, draw: random.Random) -> Problem:
    """A problem for training text. Closed-book science facts may come from every split; nothing else may."""
    while True:
        problem = PROBLEMS[category](draw)
        if split_of(problem) == "training" or category is Category.SCIENCE:
            return problem


# ---------------------------------------------------------------------------------------------- texts for the weights


def textbook(problem: Problem) -> tuple[str, str]:
    """The same knowledge as plain text without chat marks or tags: what a base model has read.

    Gives (question part, worked part).
    """
    return "\n".join(problem.turns) + "\n", f"{problem.think}\n{problem.answer.strip()}\n"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An answer to judge, with the truth."""

    category: Category
    question: str
    reference: str
    answer: str
    truth: str


def judgement(draw: random.Random) -> Judgement:
    """A science or conversation answer, right half of the time, with the score a perfect judge gives.

    Science: 5 the same, 1 wrong but of the asked kind, 0 otherwise. Conversation, helpfulness correctness
    coherence: `4 4 4` right, `1 0 4` wrong but of the asked kind, `0 0 0` otherwise.
    """
    category = draw.choice((Category.SCIENCE, Category.CONVERSATION))
    problem = PROBLEMS[category](draw)
    while problem.kind == "options":  # decided by rule, never judged
        problem = PROBLEMS[category](draw)
    reference = problem.reference or ""
    answer, right = reference, draw.random() < 0.5
    if not right:
        answer = _wrong_answer(reference, category, draw)
    kind_fits = reference.isdigit() == answer.isdigit() and answer.isalnum()
    level = 2 if answer == reference else 1 if kind_fits else 0
    science, conversation = ("0", "1", "5")[level], ("0 0 0", "1 0 4", "4 4 4")[level]
    truth = science if category is Category.SCIENCE else conversation
    return Judgement(category=category, question=problem.turns[-1], reference=reference, answer=answer, truth=truth)


def _wrong_answer(reference: str, category: Category, draw: random.Random) -> str:
    """What a weak distiller might say instead: one digit off, another element, a different word, or noise."""
    while True:
        if reference.isdigit() and draw.random() < 0.8:
            answer = str(max(0, int(reference) + draw.choice((-10, -2, -1, 1, 2, 10, draw.randint(-30, 30)))))
        elif category is Category.SCIENCE and draw.random() < 0.8:
            answer = draw.choice(ELEMENTS)
        else:
            answer = draw.choice(
                (*COLORS, *PETS, _word(draw), _word(draw), str(draw.randint(0, 60)), f"{reference} {_word(draw)}")
            )
        if answer != reference:
            return answer


def with_answer(problem: Problem, answer: str) -> Problem:
    """The same problem with another answer (a damaged copy of its reference solution)."""
    return replace(problem, answer=answer)
