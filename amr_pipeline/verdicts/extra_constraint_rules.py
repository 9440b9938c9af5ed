"""Instruction rules beyond IFEval's 25, in the same format. This is the one place to add a rule.

A rule is a function of a text and its arguments, and a line in `EXTRA_RULES` under its public id; a query names it as
`{"id": ..., "kwargs": {...}}`. It takes time in proportion to the text and raises `CannotTellError` for what it lacks.

Source: ids that public instruction data use beside IFEval's; each rule is written from the wording of its request.
"""

import re
from collections.abc import Callable

from amr_pipeline.verdicts.constraint_rules import Arguments, CannotTellError, number_paragraphs, related, sentences


def _count(arguments: Arguments) -> int:
    value = arguments.get("N")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    raise CannotTellError("argument N is missing")


def _word(arguments: Arguments, name: str) -> str:
    value = arguments.get(name)
    if isinstance(value, str) and value.strip():
        return value.strip().lower()
    raise CannotTellError(f"argument {name} is missing")


def _words(text: str) -> list[str]:
    """Words in small letters; a hyphen or an apostrophe inside belongs to the word."""
    return [found.lower() for found in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)]


def lowercase_counting(text: str, arguments: Arguments) -> bool:
    """At most N words in small letters only."""
    return len(re.findall(r"\b[a-z]+\b", text)) <= _count(arguments)


def letter_counting(text: str, arguments: Arguments) -> bool:
    """At least, or less than, N letters."""
    return related(sum(map(str.isalpha, text)), _count(arguments), arguments.get("relation"))


def two_paragraphs(text: str, arguments: Arguments) -> bool:
    """Two paragraphs with a `***` line between them."""
    return number_paragraphs(text, {"num_paragraphs": 2})


def first_word_of_answer(text: str, arguments: Arguments) -> bool:
    """The first word is the given one, in any case."""
    return _words(text)[:1] == [_word(arguments, "first_word")]


def last_word_of_answer(text: str, arguments: Arguments) -> bool:
    """The last word is the given one, in any case."""
    return _words(text)[-1:] == [_word(arguments, "last_word")]


def first_word_of_sentences(text: str, arguments: Arguments) -> bool:
    """Every sentence begins with the given word, in any case."""
    wanted = _word(arguments, "first_word")
    begun = [words for words in map(_words, sentences(text)) if words]
    return bool(begun) and all(words[0] == wanted for words in begun)


def last_word_of_sentences(text: str, arguments: Arguments) -> bool:
    """Every sentence ends with the given word, in any case."""
    wanted = _word(arguments, "last_word")
    ended = [words for words in map(_words, sentences(text)) if words]
    return bool(ended) and all(words[-1] == wanted for words in ended)


EXTRA_RULES: dict[str, Callable[[str, Arguments], bool]] = {
    "count:lowercase_counting": lowercase_counting,
    "letters:letter_counting": letter_counting,
    "paragraphs:paragraphs": two_paragraphs,
    "first_word:first_word_answer": first_word_of_answer,
    "first_word:first_word_sent": first_word_of_sentences,
    "last_word:last_word_answer": last_word_of_answer,
    "last_word:last_word_sent": last_word_of_sentences,
}
"""Every extra rule by its public id."""
