"""Judging a file of published records: one verdict per line, in order, at bounded memory, whatever the lines hold."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TextIO

from amr_pipeline.categories import Category
from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.engines.code_sandbox import shared_code_sandbox
from amr_pipeline.responses.progress import Progress
from amr_pipeline.studies.study import (
    CodeVerifier,
    ConversationVerifier,
    InstructionVerifier,
    MathVerifier,
    ScienceVerifier,
    VerifierRow,
)
from amr_pipeline.verdicts.published_records import LONGEST_LINE, PublishedRecord, parse_line
from amr_pipeline.verdicts.registry import build_verifier
from amr_pipeline.verdicts.verifier import AskJudge, Case, RateReplies, Verdict, Verifier

LINES_AT_ONCE = 400
"""Lines judged together: enough to keep both cores busy, few enough to hold in memory."""

DEFAULT_ROWS: tuple[VerifierRow, ...] = (
    MathVerifier(),
    CodeVerifier(),
    ScienceVerifier(),
    InstructionVerifier(),
    ConversationVerifier(),
)

NO_JUDGE = "no judge: choose a study that has one with --study"


def verify_file(
    source: str,
    target: str,
    rows: tuple[VerifierRow, ...] = DEFAULT_ROWS,
    *,
    judge_of: Callable[[VerifierRow], AskJudge | None] = lambda row: None,
    reward_model_of: Callable[[VerifierRow], RateReplies | None] = lambda row: None,
    say: Callable[[str], object],
) -> Counter[str]:
    """Judge every line of `source` into `target` (either may be `-`) and count verdicts by category and outcome.

    The target appears whole when the last line is judged.

    Raises:
        FileNotFoundError: there is no such source.
    """
    counts: Counter[str] = Counter()
    with ExitStack() as open_files:
        lines: BinaryIO = sys.stdin.buffer if source == "-" else open_files.enter_context(Path(source).open("rb"))
        checkers = AnswerCheckers()
        open_files.callback(checkers.close)
        verifiers = {row.category: _verifier(row, checkers, judge_of(row), reward_model_of(row)) for row in rows}
        names = {row.category: row.name for row in rows}
        temporary = Path(f"{target}.unfinished-{os.getpid()}")
        out: TextIO = sys.stdout if target == "-" else open_files.enter_context(temporary.open("w", encoding="utf-8"))
        progress = Progress(total=0, what="lines", say=say, clock=time.monotonic)
        for chunk in _chunks(lines):
            verdicts = _judge(verifiers, [record.case for record in chunk if record.case is not None])
            for record in chunk:
                line = _line(record, verdicts, names)
                counts[
                    f"{line.pop('_category')} {line['verdict']}" + (f": {line['cause']}" if line["cause"] else "")
                ] += 1
                out.write(json.dumps(line, ensure_ascii=True) + "\n")
            progress.add(len(chunk))
        out.flush()
    if target != "-":
        temporary.replace(target)
    say(progress.line())
    return counts


def _verifier(
    row: VerifierRow, checkers: AnswerCheckers, ask_judge: AskJudge | None, rate_replies: RateReplies | None
) -> Verifier:
    return build_verifier(
        row,
        compare_answers=lambda: checkers,
        run_programs=shared_code_sandbox,
        ask_judge=ask_judge,
        rate_replies=rate_replies,
    )


def _chunks(lines: BinaryIO) -> Iterator[list[PublishedRecord]]:
    chunk: list[PublishedRecord] = []
    number = 0
    while line := lines.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            size = len(line)
            while (rest := lines.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                size += len(rest)
            problem = f"a line of over {size:,} bytes; the limit is {LONGEST_LINE:,}"
            chunk.append(PublishedRecord(record_id=None, case=None, problem=problem))
        else:
            chunk.append(parse_line(line.decode("utf-8", "replace"), number))
        number += 1
        if len(chunk) >= LINES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _judge(verifiers: dict[Category, Verifier], cases: list[Case]) -> dict[str, tuple[Case, Verdict]]:
    by_id = {case.response_id: case for case in cases}
    found: dict[str, tuple[Case, Verdict]] = {}
    for category, verifier in verifiers.items():
        mine = [case for case in cases if case.category == category]
        for verdict in verifier.judge(mine) if mine else ():
            found[verdict.response_id] = (by_id[verdict.response_id], verdict)
    return found


def _line(
    record: PublishedRecord, verdicts: dict[str, tuple[Case, Verdict]], names: dict[Category, str]
) -> dict[str, object]:
    if record.case is None or record.case.response_id not in verdicts:
        problem = record.problem or "the study has no verifier for this category"
        cause = "malformed" if record.case is None else "unsupported"
        return {
            "id": record.record_id, "verdict": "undecided", "cause": cause, "verify_score": None, "verifier": None,
            "evidence": problem, "_category": "unknown",
        }  # fmt: skip
    case, verdict = verdicts[record.case.response_id]
    evidence = verdict.evidence or (NO_JUDGE if verdict.cause == "judge_unavailable" else "")
    return {
        "id": record.record_id,
        "verdict": str(verdict.outcome),
        "cause": None if verdict.cause is None else str(verdict.cause),
        "verify_score": verdict.verify_score,
        "verifier": f"{names[case.category]}/{verdict.stage}",
        "evidence": evidence,
        "_category": str(case.category),
    }
