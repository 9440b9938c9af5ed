"""Answers that symbolic algebra is not given: beyond these limits it takes seconds, or never ends.

Source: reliability measurements B2 and B4; a legitimate answer is not larger.
"""

import re

from amr_pipeline.verdicts.answer_text import nesting

LONGEST_ANSWER = 2_000
"""Characters."""


def too_complex(answer: str) -> str | None:
    """Why an answer is not handed to symbolic algebra, or None."""
    if len(answer) > LONGEST_ANSWER:  # first, because what follows looks at every position more than once
        return f"length: {len(answer):,} > {LONGEST_ANSWER:,}"
    limits = (
        ("digits in a row", max((len(run) for run in re.findall(r"\d+", answer)), default=0), 1_000),
        ("nesting", nesting(answer), 12),
        ("factorials", answer.count("!"), 3),
        ("digits under a factorial", max((len(run) for run in re.findall(r"(\d+)\)*!", answer)), default=0), 3),
        ("stacked powers", _stacked_powers(answer), 3),
        ("cells", answer.count("&") + answer.count("\\\\"), 400),
        ("members", answer.count(","), 200),
    )
    return next((f"{name}: {found:,} > {limit:,}" for name, found, limit in limits if found > limit), None)


def _stacked_powers(text: str) -> int:
    return max((len(run) // 2 for run in re.findall(r"(?:\^\{?\(?\d*){2,}", text)), default=0)
