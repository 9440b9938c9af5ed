r"""The text of an answer without what never changes it: delimiters, spacing, fonts, sizes, separators of thousands.

Belongs here: rewriting text into fewer spellings of the same answer. Does not belong here: what it means.
"""

import re
from functools import lru_cache

_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad|hspace\{[^}]*\}|phantom\{[^}]*\})(?![A-Za-z])"
)
_SPACES = re.compile(r"\\[,!;:> ]|~|[\u2009\u202f\u00a0]")
_REALS = re.compile(r"(?:\\mathbb\s*(?:\{R\}|R)|\\R(?![A-Za-z])|\\Reals)(?!\s*[\^_+])")
_FONTS = re.compile(r"\\(?:mathbf|mathit|mathsf|mathcal|bm|boldsymbol|pmb|mathbb|vec|mathop)\s*\{([^{}]*)\}")
_TEXTS = re.compile(r"\\(?:text(?:bf|it|rm|sf|normal)?|mathrm|mbox|hbox|operatorname|rm)\s*\{([^{}]*)\}")
_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("`", "`"), ("**", "**"))
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|\\,|\\ |\{ \})\d{3})+)(?!\d)")
_THOUSANDS_APART = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∞": "\\infty ", "∪": "\\cup ", "∅": "\\emptyset ",
     "∈": "\\in ", "°": "^\\circ ", "½": "\\frac{1}{2}", "→": "\\to ", "≈": "\\approx ",
     "±": "\\pm ", "，": ",", "（": "(", "）": ")", "：": ":", "％": "%", "ℝ": "\\mathbb{R}"}
)  # fmt: skip
_ESCAPED_TWICE = re.compile(r"\\\\(?=[A-Za-z]{2,})")
_SHORT = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_NAMES = (
    (re.compile(r"\\(?:leqslant|leq|leqq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq|geqq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\langle(?![A-Za-z])"), "⟨"),
    (re.compile(r"\\rangle(?![A-Za-z])"), "⟩"),
    (re.compile(r"\\(?:varnothing|O|empty)(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\overline\s*\{([A-Z]{2})\}"), r"\1"),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)"), r"\\times "),
    (re.compile(r"\\degree(?![A-Za-z])|\^\{?\\circ\}?"), r"^\\circ "),
    (re.compile(r"\\(?:simeq|thickapprox|doteq)(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"\\bigcup(?![A-Za-z])"), r"\\cup"),
)


@lru_cache(maxsize=8192)
def plain_answer(answer: str) -> str:
    r"""The answer in fewer spellings: `$\dfrac{1}{2}.$` becomes `\frac{1}{2}`, `1{,}000` becomes `1000`.

    Words in `\text{}` stand between spaces afterwards, so that units and "and" can be recognised.
    """
    text = answer.strip().translate(_UNICODE)
    if "\\\\" in text and "\\begin" not in text:
        text = _ESCAPED_TWICE.sub(r"\\", text)
    text = _SPACED_THOUSANDS.sub(lambda found: found[1] + re.sub(r"\D", "", found[2]), text)
    text = _SPACES.sub(" ", _SIZES.sub(" ", text.replace("\\$", " "))).replace("\\%", "%").replace("\\&", "&")
    text = _REALS.sub(r"(-\\infty,\\infty)", _SHORT.sub(r"\\frac", text))
    for _ in range(3):  # fonts nest
        text = _TEXTS.sub(r" \1 ", _FONTS.sub(r"\1", text))
    for pattern, name in _NAMES:
        text = pattern.sub(name, text)
    text = re.sub(r"\s+", " ", text.replace("$$", " $ ")).strip()
    text = re.sub(r"(?<=[A-Za-z]) \^(?!\\circ)", "^", text)  # a unit's power stood outside its \\text{}
    before = None
    while before != text:
        before = text
        text = _undelimited(text).rstrip("\\").strip()
        text = re.sub(r"(?<!\.)\.$", "", text).strip()
    text = re.sub(r"\s+", " ", _without_thousands(text.replace("$", " "))).strip()
    if found := _RESIDUE.fullmatch(text):  # what is congruent needs no name
        return f"{found[1]} \\pmod {{{found[2] or found[3]}}}"
    return text.replace(" ", "") if _THOUSANDS_APART.fullmatch(text) else text


def _undelimited(text: str) -> str:
    for opening, closing in _DELIMITERS:
        inside = text[len(opening) : len(text) - len(closing)]
        if (
            len(text) > len(opening) + len(closing)
            and text.startswith(opening)
            and text.endswith(closing)
            and opening not in inside
        ):
            return inside.strip()
    return text


def _without_thousands(text: str) -> str:
    """Commas between thousands go where the text is one number; in a list they separate."""
    bare = re.sub(r"[^\d.,]", "", text)
    return (
        _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
        if _THOUSANDS.match(bare) and not re.search(r"[(\[{]\s*\d{1,3},\d", text)
        else text
    )


_RESIDUE = re.compile(
    r"(?:[a-zA-Z]\s*(?:\\equiv(?![A-Za-z])|≡|=)\s*)?(.+?)\s*"
    r"(?:\\pmod\s*\{?(\w+)\}?|\(\s*(?:\\bmod|\\mod|mod)\s*\{?(\w+)\}?\s*\))"
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NOT_WORDS = re.compile(r"[^\w\s]|_")


def plain_words(text: str) -> str:
    """Words for comparison as text: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", _NOT_WORDS.sub(" ", text.lower())).split())


def split_outside(text: str, separators: str) -> list[str]:
    """Parts of a text between separators that stand outside every bracket, stripped."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        if letter in "([{⟨":
            depth += 1
        elif letter in ")]}⟩":
            depth -= 1
        elif letter in separators and depth <= 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def nesting(text: str) -> int:
    """How deep brackets stand inside one another."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{⟨") - (letter in ")]}⟩")
        deepest = max(deepest, depth)
    return deepest


def open_brackets(text: str) -> int:
    """Brackets that a text opens and does not close; negative where it closes more."""
    return sum((letter in "([{⟨") - (letter in ")]}⟩") for letter in text)
