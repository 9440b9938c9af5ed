r"""Where in a response its final answer stands: boxed, declared, or all there is.

Only the answer content of a finished response comes here. Prose without any of these has no answer: picking a number
out of it would invent one (# ours; reliability measurements B5).
"""

import re
from collections.abc import Sequence

LONGEST_ANSWER = 2_000
"""Characters beyond which a text without a box is not an answer, only prose."""

LONGEST_BARE_ANSWER = 80
"""Characters up to which an answer with words in it may be the whole answer content."""

MOST_WORDS = 3
"""Words that a bare answer may have; more are prose."""

MOST_WORDS_BETWEEN = 1
"""Words, beside "and" and "or", that may stand between the boxes of one answer (`\\boxed{6} apples and \\boxed{8}`)."""

MOST_BOXES = 20
"""Boxes of one answer."""

_BOX = re.compile(r"\\f?boxed\s*\{|\\[{}\\]|[{}]")
_BETWEEN_BOXES = re.compile(r"\\(?:text|mbox|mathrm)\{|\\(?:quad|qquad|[\[\]()])|\band\b|\bor\b|[\s,;${}&]")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_DECLARED = re.compile(
    r"(?:(?:final|correct|right)\s+)?(?:answer|result|solution)\s*"
    r"(?:\**\s*[:：=]|(?:is|are|was|would be|should be|must be)\b)\**\s*:?"
    r"|(?:答案|结果|答え)\s*(?:是|为|は)?\s*[:：]?|(?:réponse|respuesta|resposta|risposta)\s+(?:est|es|é|è)\s*:?"
    r"|Antwort\s+ist\s*:?|####",
    re.IGNORECASE,
)
_IS_AT_THE_END = re.compile(r"\b(?:is|are|equals)\s+(\S[^.!?]{0,60}?)\s*[.!?]?\s*$")
_IS_THE_ANSWER = re.compile(r"\bis\s+(?:our|the)\s+(?:final\s+)?answer\W*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n|。|，所以")
_OPTION = re.compile(r"\(?([A-J])\)?\.?")
_STATED_OPTION = re.compile(
    r"(?i:answer|option|choice)(?:\s+is(?:\s+(?!not\b)[a-z]+){0,2}|\s*:)?\s*\**\(?([A-Z])\b(?![a-z' ]{2})"
)
_LEADING_OPTION = re.compile(r"\s*\**\(?([A-J])(?:\)|\.|:|\s*$|\*\*)")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def last_boxed(text: str, *, peel: int = 3) -> str | None:
    r"""Content of the last complete box, or of the run of boxes that ends with it, or None.

    `\boxed{1} then: \boxed{\frac{2}{3}}` gives `\frac{2}{3}`; `\boxed{1} and \boxed{2}` gives `1, 2`, since an answer
    that names two is not an answer that names the last; an unclosed box is skipped. Boxes in boxes are opened, `peel`
    of them.
    """
    found = _boxes(text)
    if not found:
        return None
    run = [found[-1]]
    for box in found[-2 : -2 - MOST_BOXES : -1]:
        between = text[box[2] : run[-1][0]]
        words = _BETWEEN_BOXES.sub(" ", between).split() if len(between) < LONGEST_BARE_ANSWER else [between] * 9
        if "\n\n" in between or len(words) > MOST_WORDS_BETWEEN or not all(word.isalpha() for word in words):
            break
        run.append(box)
    contents = [text[start : end - 1].strip() for _, start, end in reversed(run)]
    return ", ".join(dict.fromkeys((peel and last_boxed(content, peel=peel - 1)) or content for content in contents))


def _boxes(text: str) -> list[tuple[int, int, int]]:
    r"""(start, start of the content, end) of every outermost `\boxed{...}` whose braces close; one pass."""
    open_braces: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, int]] = []
    for match in _BOX.finditer(text):
        mark = match[0]
        if mark in ("\\{", "\\}", "\\\\"):
            continue
        if mark != "}":
            open_braces.append(None if mark == "{" else (match.start(), match.end()))
        elif open_braces and (opened := open_braces.pop()) is not None:
            while found and found[-1][0] > opened[0]:  # boxes inside this one
                found.pop()
            found.append((*opened, match.end()))
    return found


def final_answer(answer_content: str, patterns: Sequence[str] = ()) -> str | None:
    """The boxed answer; else the last match of the first pattern that matches; else the declared; else a bare one.

    Args:
        answer_content: what follows the thinking.
        patterns: regexes whose first group is the answer, from the verifier's row.
    """
    boxed = last_boxed(answer_content)
    if boxed is not None:
        return declared_answer(boxed) or boxed
    for pattern in patterns:
        if found := re.findall(pattern, answer_content):
            return str(found[-1]).strip()
    text = answer_content.strip()
    return declared_answer(text) or (text if is_bare(text) else _only_mathematics(text))


def is_bare(text: str) -> bool:
    """Whether a text is an answer and nothing else: mathematics of any length, or a few words on one line."""
    if not text or len(text) > LONGEST_ANSWER:
        return False
    outside = _COMMAND.sub(" ", _MATH.sub(" ", text))
    words = re.findall(r"[^\W\d_]{2,}", outside)
    if not words:
        return len(_MATH.findall(text)) <= 1 or not re.search(r"[^\W\d_]", outside)
    return len(text) <= LONGEST_BARE_ANSWER and "\n" not in text and len(words) <= MOST_WORDS


def declared_answer(text: str) -> str | None:
    """What follows the last "answer is", "Answer:" or the like, up to the end of its sentence, where that is bare."""
    for match in reversed(list(_DECLARED.finditer(text[-4000:]))):
        rest = text[-4000:][match.end() :].strip().lstrip("*").strip()
        if mathematics := _MATH.match(rest):
            return _inside(mathematics)
        sentence = _SENTENCE_END.split(rest, maxsplit=1)[0].strip().strip("*").strip()
        if sentence and is_bare(sentence):
            return sentence
        if stated := _IS_AT_THE_END.search(sentence):
            candidate = stated[1].strip()
            if is_bare(candidate):
                return candidate
    return None


def _only_mathematics(text: str) -> str | None:
    """The one formula of a short text, where it stands at the end or is called the answer."""
    if len(text) > LONGEST_ANSWER:
        return None
    formulas = list(_MATH.finditer(text))
    if len(formulas) != 1:
        return None
    after = text[formulas[0].end() :].strip(" .\n*")
    return _inside(formulas[0]) if not after or _IS_THE_ANSWER.search(after) else None


def _inside(mathematics: re.Match[str]) -> str:
    return next(group for group in mathematics.groups() if group is not None).strip()


# ------------------------------------------------------------------------------------------------------ option letters


def option_named(reference: str) -> str | None:
    """The letter of a reference that is one option (`B`, `(B)`, `B.`), else None."""
    found = _OPTION.fullmatch(reference.strip())
    return found[1] if found else None


def option_of(answer: str) -> str | None:
    r"""The option letter an answer settles on, or None.

    `B`, `(B)`, `B) Na`, `\boxed{B}`, `the answer is B`; the last stated one where several are.
    """
    boxed = last_boxed(answer)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", r"\1", boxed) if boxed is not None else answer
    text = " ".join(text.split())  # the patterns below try every split of a long run of spaces
    if found := _OPTION.fullmatch(text):
        return found[1]
    if stated := _STATED_OPTION.findall(text):
        return str(stated[-1])
    leading = _LEADING_OPTION.match(text)
    return leading[1] if leading else None
