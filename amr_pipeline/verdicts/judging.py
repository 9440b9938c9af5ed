"""Asking a judge model: the prompt from its file, a strict grammar for the reply, and an opinion or a cause.

Response text is hostile: it stands between marks it cannot know, and the grammar leaves a judge no room to be
talked into anything but a wrong opinion. A reply outside the grammar is undecided, never a score.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from amr_pipeline.fingerprint import content_id
from amr_pipeline.queries.identity import question_text
from amr_pipeline.studies.study import JudgeModel
from amr_pipeline.verdicts.verifier import AskJudge, Case, Cause, JudgeRequest

PROMPTS = Path(__file__).parent / "judge_prompts"

LONGEST_ANSWER = 20_000
"""Characters of an answer that a judge is shown; its context is finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A case and the part of its response to judge."""

    case: Case
    answer: str


@cache
def prompt_text(name: str) -> str:
    """A judge prompt by its file stem.

    Raises:
        FileNotFoundError: there is no such prompt.
    """
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8")


def judge_prompt(template: str, question: Question) -> str:
    """The prompt with its placeholders filled; `{mark}` is a line that the answer cannot contain by accident."""
    case = question.case
    values = {
        "question": question_text([{"role": role, "content": content} for role, content in case.messages]),
        "last_turn": case.messages[-1][1],
        "reference": case.reference or "",
        "answer": question.answer[:LONGEST_ANSWER],
        "mark": content_id("mark", case.response_id, question.answer)[:12],
    }
    # One pass over the template, so that a placeholder inside an answer stays text.
    return re.sub(r"\{(question|last_turn|reference|answer|mark)\}", lambda found: values[found[1]], template)


def ask(
    judge: JudgeModel, ask_judge: AskJudge | None, questions: Sequence[Question], pattern: str
) -> Iterator[tuple[Case, str | Cause]]:
    """Each case with the judge's reply, or with the cause why there is none."""
    if ask_judge is None:
        yield from ((question.case, Cause.JUDGE_UNAVAILABLE) for question in questions)
        return
    waiting = {question.case.response_id: question.case for question in questions}
    template = prompt_text(judge.prompt)
    requests = (
        JudgeRequest(
            request_id=question.case.response_id,
            messages=(("user", judge_prompt(template, question)),),
            pattern=pattern,
            max_tokens=judge.max_tokens,
        )
        for question in questions
    )
    for reply in ask_judge(requests):
        case = waiting.pop(reply.request_id)
        if reply.text is None:
            yield case, reply.cause or Cause.JUDGE_UNAVAILABLE
        elif re.fullmatch(pattern, reply.text.strip()):
            yield case, reply.text.strip()
        else:
            yield case, Cause.JUDGE_UNPARSED
    yield from ((case, Cause.CRASHED) for case in waiting.values())
