import pytest

from amr_pipeline.verdicts.constraint_rules import RULES, CannotTellError
from amr_pipeline.verdicts.extra_constraint_rules import EXTRA_RULES

EXTRA_FOLLOWED_AND_BROKEN = {
    "count:lowercase_counting": ({"N": 1}, "One TWO three", "one two"),
    "letters:letter_counting": ({"N": 4, "relation": "at least"}, "a b, cd", "abc 123"),
    "paragraphs:paragraphs": ({}, "a\n***\nb", "a\n\nb"),
    "first_word:first_word_answer": ({"first_word": "well"}, '"Well, yes."', "Well-known."),
    "first_word:first_word_sent": ({"first_word": "so"}, "So be it. SO what?", "So be it. Well."),
    "last_word:last_word_answer": ({"last_word": "end"}, "It is the End.", "It ends."),
    "last_word:last_word_sent": ({"last_word": "end"}, "No end. The end!", "No end. The start."),
}


def test_every_extra_rule_is_tried_and_none_hides_one_of_ifevals():
    assert set(EXTRA_RULES) == set(EXTRA_FOLLOWED_AND_BROKEN)
    assert not set(EXTRA_RULES) & set(RULES)


@pytest.mark.parametrize("name", sorted(EXTRA_RULES))
def test_rule(name: str):
    arguments, followed, broken = EXTRA_FOLLOWED_AND_BROKEN[name]
    assert EXTRA_RULES[name](followed, arguments)
    assert not EXTRA_RULES[name](broken, arguments)


@pytest.mark.parametrize("name", [name for name, (arguments, *_) in EXTRA_FOLLOWED_AND_BROKEN.items() if arguments])
def test_a_missing_argument_is_not_a_verdict(name: str):
    with pytest.raises(CannotTellError, match="missing"):
        EXTRA_RULES[name]("a text", {})


@pytest.mark.parametrize("name", sorted(EXTRA_RULES))
def test_a_text_without_words_follows_nothing_it_should_name(name: str):
    arguments, *_ = EXTRA_FOLLOWED_AND_BROKEN[name]
    assert EXTRA_RULES[name]("?!", arguments) is (name == "count:lowercase_counting")
