"""The answer content of a finished response, or the verdict that there is nothing to judge."""

from amr_pipeline.responses.parsing import parse_response
from amr_pipeline.verdicts.verifier import Case, Cause, Verdict, decided, undecided


def finished_answer(case: Case) -> str | Verdict:
    """What follows the thinking, or a verdict.

    A response that the distiller did not finish (out of budget, looping, thinking never closed) failed. One that the
    engine did not finish says nothing about the distiller: undecided, design promise 2.
    """
    if case.finish_reason == "error":
        return undecided(case, Cause.NO_RESPONSE, stage="response", evidence="the engine gave no response")
    answer = parse_response(case.text).answer_content
    if answer is None or case.finish_reason != "stop":
        return decided(case, 0.0, stage="truncated", evidence=f"finish reason {case.finish_reason}")
    return answer
