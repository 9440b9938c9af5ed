import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.constraint_rules import RULES, CannotTellError

FOLLOWED_AND_BROKEN = {
    "keywords:existence": ({"keywords": ["sun", "moon"]}, "The Sun and the moon.", "Only the sun."),
    "keywords:frequency": ({"keyword": "yes", "frequency": 2, "relation": "at least"}, "Yes, yes.", "Yes."),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "A category.", "A cat."),
    "keywords:letter_frequency": ({"letter": "o", "let_frequency": 2, "let_relation": "less than"}, "one", "two o"),
    "language:response_language": (
        {"language": "de"},
        "Das ist der Hund und die Katze.",
        "This is the dog and that is the cat.",
    ),
    "length_constraints:number_sentences": ({"num_sentences": 2, "relation": "at least"}, "One. Two!", "Only one."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "at least"}, "a b c", "a b"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"},
        "a\n\nWell, b",
        "a\n\nb",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Hi\nP.S. more", "Hi"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n* b", "* a"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and **b**", "*a*"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 a\nSection 2 b",
        "Section 1 a",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<Title>>\ntext", "Title"),
    "combination:two_responses": ({}, "a\n******\nb", "a\n******\na"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi"}, "Say hi\nhi", "hi"),
    "startend:end_checker": ({"end_phrase": "the end"}, "It is The End", "It ends"),
    "startend:quotation": ({}, '"quoted"', "quoted"),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "TWO WORDS",
        "ONE word",
    ),
    "change_case:english_capital": ({}, "ALL CAPITALS", "Some Capitals"),
    "change_case:english_lowercase": ({}, "all small", "Not small"),
    "punctuation:no_comma": ({}, "none here", "one, here"),
}


IFEVAL = {
    f"{group}:{name}"
    for group, names in {
        "keywords": ("existence", "frequency", "forbidden_words", "letter_frequency"),
        "language": ("response_language",),
        "length_constraints": ("number_sentences", "number_paragraphs", "number_words", "nth_paragraph_first_word"),
        "detectable_content": ("number_placeholders", "postscript"),
        "detectable_format": (
            *("number_bullet_lists", "constrained_response", "number_highlighted_sections"),
            *("multiple_sections", "json_format", "title"),
        ),
        "combination": ("two_responses", "repeat_prompt"),
        "startend": ("end_checker", "quotation"),
        "change_case": ("capital_word_frequency", "english_capital", "english_lowercase"),
        "punctuation": ("no_comma",),
    }.items()
    for name in names
}
"""Groups and instructions of the paper's list (Zhou et al. 2023, Table 1), under the ids of its public data."""


def test_all_25_rules_are_here():
    assert set(RULES) == set(FOLLOWED_AND_BROKEN) == IFEVAL
    assert len(IFEVAL) == 25


@pytest.mark.parametrize("name", sorted(RULES))
def test_rule(name: str):
    arguments, followed, broken = FOLLOWED_AND_BROKEN[name]
    assert RULES[name](followed, arguments)
    assert not RULES[name](broken, arguments)


@pytest.mark.parametrize("name", [name for name, (arguments, *_) in FOLLOWED_AND_BROKEN.items() if arguments])
def test_a_missing_argument_is_not_a_verdict(name: str):
    with pytest.raises(CannotTellError):
        RULES[name]("* text <<t>> [x]\n\nP.S. one", {})


COUNTED = {
    "keywords:frequency": ({"keyword": "a"}, "frequency", "relation"),
    "keywords:letter_frequency": ({"letter": "a"}, "let_frequency", "let_relation"),
    "length_constraints:number_sentences": ({}, "num_sentences", "relation"),
    "length_constraints:number_words": ({}, "num_words", "relation"),
    "change_case:capital_word_frequency": ({}, "capital_frequency", "capital_relation"),
}
TEXT = st.text(alphabet="aAbB .!?,\n*-[]<>\"'1é", max_size=40)


@given(st.sampled_from(sorted(COUNTED)), TEXT, st.integers(0, 6))
def test_at_least_and_less_than_are_each_others_opposite(name: str, text: str, wanted: int):
    arguments, number, relation = COUNTED[name]
    at_least, less_than, unsaid = (
        RULES[name](text, {**arguments, number: wanted, relation: word}) for word in ("at least", "less than", None)
    )
    assert at_least is not less_than
    assert unsaid is at_least
    assert RULES[name](text, {**arguments, number: 0, relation: "at least"})


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_an_unknown_relation_is_not_guessed(name: str):
    arguments, number, relation = COUNTED[name]
    with pytest.raises(CannotTellError, match="about"):
        RULES[name]("a", {**arguments, number: 1, relation: "about"})


@given(st.sampled_from(sorted(RULES)), st.text(max_size=80))
def test_no_text_makes_a_rule_fail(name: str, text: str):
    try:
        assert RULES[name](text, FOLLOWED_AND_BROKEN[name][0]) in (True, False)
    except CannotTellError:
        assert name == "language:response_language"


@pytest.mark.parametrize(
    ("name", "arguments", "text", "followed"),
    [
        ("keywords:existence", {"keywords": ["a.b"]}, "axb", False),
        ("keywords:forbidden_words", {"keywords": ["Cat"]}, "the cat!", False),
        ("length_constraints:number_sentences", {"num_sentences": 1, "relation": "less than"}, "", True),
        ("length_constraints:number_sentences", {"num_sentences": 2}, "Dr. Who paid 3.50 for it.", False),
        ("length_constraints:number_sentences", {"num_sentences": 3}, "One? Two! Three", True),
        ("length_constraints:number_sentences", {"num_sentences": 2}, "Wait... what?! Yes", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\n\n***\nb", False),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***\nc", False),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb\n***", True),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "a\n\na",
            False,
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "a"},
            "a\n\na",
            False,
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "Well"},
            '"WELL, then',
            True,
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[a] [b]", True),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\n p. p. s. more", True),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.S. more", False),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b\n  - c", False),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "**bold**\n* a", True),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* ** ** **", False),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "**b**", True),
        (
            "detectable_format:multiple_sections",
            {"section_splitter": "PART", "num_sections": 1},
            "PART 1 a PART 2 b",
            True,
        ),
        ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 1}, "Part one", False),
        ("detectable_format:json_format", {}, "[1, 2]", True),
        ("detectable_format:json_format", {}, 'Here: {"a": 1}', False),
        ("detectable_format:title", {}, "<<  >>", False),
        ("combination:two_responses", {}, "a******b******c", False),
        ("combination:two_responses", {}, "a******\n******b", False),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "  SAY HI there", True),
        ("startend:end_checker", {"end_phrase": "Bye."}, '"So bye."', True),
        ("startend:end_checker", {"end_phrase": "Bye."}, "Bye. More", False),
        ("startend:quotation", {}, '"', False),
        ("change_case:english_capital", {}, "123", False),
        ("change_case:english_lowercase", {}, "123", False),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 1, "capital_relation": "at least"},
            "x-RAY",
            False,
        ),
    ],
)
def test_edges(name: str, arguments: dict, text: str, followed: bool):
    assert RULES[name](text, arguments) is followed


@pytest.mark.parametrize(
    ("language", "text", "followed"),
    [
        ("ru", "Привет, как дела?", True),
        ("ru", "Hello there", False),
        ("hi", "नमस्ते दुनिया", True),
        ("ko", "안녕하세요 OK", True),
        ("en", "This is not the end of it.", True),
        ("en", "Это конец.", False),
        ("fr", "Le chat est dans la maison et il ne dort pas.", True),
        ("fr", "The cat is in the house and it is not asleep.", False),
    ],
)
def test_languages(language: str, text: str, followed: bool):
    assert RULES["language:response_language"](text, {"language": language}) is followed


@pytest.mark.parametrize(("language", "text"), [("en", "12 34"), ("en", "Zorgle blip"), ("xx", "This is the end.")])
def test_a_language_that_cannot_be_told_is_not_guessed(language: str, text: str):
    with pytest.raises(CannotTellError):
        RULES["language:response_language"](text, {"language": language})


HOSTILE = (
    "a" * 60_000 + ".b",
    "[" * 60_000,
    "\n" * 60_000,
    "<" * 60_000,
    "*" * 60_000,
    " " * 60_000 + "x",
    "P." * 30_000,
)
"""Texts on which a pattern that backtracks over a run of characters would take hours, or seconds if only once over."""


@pytest.mark.timeout(1200)
def test_no_text_makes_a_rule_slow():
    probe = """
import time
from amr_pipeline.verdicts.constraint_rules import CannotTellError
from amr_pipeline.verdicts.instruction_constraints import follows
from amr_pipeline_tests.verdicts.test_constraint_rules import FOLLOWED_AND_BROKEN, HOSTILE
from amr_pipeline_tests.verdicts.test_extra_constraint_rules import EXTRA_FOLLOWED_AND_BROKEN
for name, (arguments, *_) in [*FOLLOWED_AND_BROKEN.items(), *EXTRA_FOLLOWED_AND_BROKEN.items()]:
    for text in HOSTILE:
        begun = time.process_time()
        try:
            follows("{" + text + "}", name, arguments, "loose")
        except CannotTellError:
            pass
        spent = time.process_time() - begun
        assert spent < 3, f"{name} takes {spent:.1f} s for {text[:5]}, where a look from left to right takes a tenth"
"""
    # A process of its own, because a pattern that hangs cannot be stopped from inside.
    subprocess.run([sys.executable, "-c", probe], check=True, timeout=900)
