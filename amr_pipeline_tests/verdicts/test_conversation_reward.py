import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import ConversationVerifier, JudgeModel, Scorer
from amr_pipeline.verdicts.conversation_reward import ConversationReward
from amr_pipeline.verdicts.verifier import Cause, RateReply, RateRequest
from amr_pipeline_tests.verdicts.cases import case, judge_saying

JUDGE = JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="micro_conversation")


@pytest.mark.parametrize(
    ("reply", "score", "outcome"),
    [
        ("4 4 4", 1.0, "passed"),
        ("3 3 3", 0.75, "passed"),
        ("4 4 0", 8 / 12, "failed"),
        ("4 4", None, "undecided"),
        ("5 5 5", None, "undecided"),
    ],
)
def test_three_heads_sum_to_twelve(reply: str, score: float | None, outcome: str):
    (found,) = ConversationReward(ConversationVerifier(judge=JUDGE), judge_saying(reply)).judge(
        [case(Category.CONVERSATION, "hi")]
    )
    assert (found.verify_score, found.outcome) == (score, outcome)


def test_heads_are_counted_by_name_in_any_order():
    row = ConversationVerifier(
        judge=JUDGE, heads=("complexity", "coherence", "correctness", "verbosity", "helpfulness")
    )
    (found,) = ConversationReward(row, judge_saying("0 4 2 0 3")).judge([case(Category.CONVERSATION, "hi")])
    assert found.verify_score == 9 / 12
    assert json.loads(found.evidence)["complexity"] == 0


def test_without_a_judge_nothing_is_decided():
    (found,) = ConversationReward(ConversationVerifier()).judge([case(Category.CONVERSATION, "hi")])
    assert found.cause == "judge_unavailable"


# ------------------------------------------------------------------------------------------------------ reward models

RATER = Scorer(model="m", revision="r", max_model_len=9)
ROW = ConversationVerifier(reward_model=RATER)


def rated(heads: tuple[float, ...] | None, row: ConversationVerifier = ROW, seen: list[RateRequest] | None = None):
    def rate(requests: Iterable[RateRequest]) -> Iterator[RateReply]:
        for request in requests:
            if seen is not None:
                seen.append(request)
            yield RateReply(request_id=request.request_id, heads=heads, cause=None if heads else Cause.TOO_COMPLEX)

    turns = (("user", "first"), ("assistant", "so"), ("user", "and then?"))
    made = replace(case(Category.CONVERSATION, "the final response"), messages=turns)
    (found,) = ConversationReward(row, None, rate).judge([made])
    return found


@given(
    st.tuples(*[st.floats(0, 4)] * 3), st.sampled_from(list(permutations(("helpfulness", "correctness", "coherence"))))
)
def test_the_score_is_the_sum_over_twelve_whatever_the_order_of_heads(values, order):
    found = rated(values, replace(ROW, heads=order))
    assert found.verify_score == pytest.approx(sum(values) / 12)
    assert json.loads(found.evidence) == {name: round(value, 4) for name, value in zip(order, values, strict=True)}
    assert found.stage == "reward"


def test_heads_that_do_not_count_are_kept_and_change_nothing():
    five = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    for other in (0.0, 4.0):
        found = rated((3.2, 3.4, 3.6, other, other), replace(ROW, heads=five))
        assert found.verify_score == pytest.approx(10.2 / 12)
        assert json.loads(found.evidence)["verbosity"] == other


def test_a_small_overshoot_counts_as_the_end_of_the_range_and_is_kept_as_it_was():
    found = rated((4.3, -0.2, 4.0))
    assert found.verify_score == pytest.approx(8 / 12)
    assert json.loads(found.evidence)["helpfulness"] == 4.3


@pytest.mark.parametrize("heads", [(4.0, 4.0), (1.0,) * 5, (math.nan, 4.0, 4.0), (17.0, 1.0, 1.0), (-3.0, 1.0, 1.0)])
def test_numbers_that_are_no_heads_decide_nothing(heads: tuple[float, ...]):
    found = rated(heads)
    assert (found.outcome, found.cause) == ("undecided", "judge_unparsed")
    assert "wanted 3 from 0 to 4" in found.evidence


def test_a_multi_turn_query_is_rated_on_its_final_response():
    seen: list[RateRequest] = []
    rated((4.0, 4.0, 4.0), seen=seen)
    (request,) = seen
    assert request.messages[-1] == ("assistant", "the final response"), "the answer part alone"
    assert [role for role, _ in request.messages] == ["user", "assistant", "user", "assistant"]


def test_a_reward_model_that_is_away_or_cannot_take_it_decides_nothing():
    assert rated(None).cause == "too_complex"
    (away,) = ConversationReward(ROW).judge([case(Category.CONVERSATION, "hi")])
    assert away.cause == "judge_unavailable"
    (silent,) = ConversationReward(ROW, None, lambda requests: iter(())).judge([case(Category.CONVERSATION, "hi")])
    assert silent.cause == "crashed"
