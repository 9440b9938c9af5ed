"""The 25 instruction rules of IFEval by their public ids: a text and its arguments, followed or not.

Each rule is written from the public meaning of its id. Arguments may be missing or misspelled as in public data.
A rule that cannot tell raises `CannotTellError`; that is undecided, never followed or broken. Texts are hostile:
every rule takes time in proportion to the text, so none uses a pattern that can backtrack over a run of characters.

A rule of your own goes beside those in `extra_constraint_rules` (IFEval's format, any id that is free).

Source: the instruction ids of IFEval (Zhou et al. 2023), which DeepDistill 2.4.1 uses.
"""

import json
import re
from collections.abc import Callable, Mapping

Arguments = Mapping[str, object]


class CannotTellError(ValueError):
    """The rule has not what it needs to decide; the message says what."""


def _number(arguments: Arguments, *names: str) -> int:
    for name in names:
        value = arguments.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    raise CannotTellError(f"argument {names[0]} is missing")


def _string(arguments: Arguments, *names: str) -> str:
    for name in names:
        if isinstance(value := arguments.get(name), str):
            return value
    raise CannotTellError(f"argument {names[0]} is missing")


def _strings(arguments: Arguments, *names: str) -> list[str]:
    for name in names:
        value = arguments.get(name)
        if isinstance(value, list) and value:
            return [str(item) for item in value]
    raise CannotTellError(f"argument {names[0]} is missing")


def related(count: int, wanted: int, relation: object) -> bool:
    """`less than` is strict; `at least` and anything unsaid is not."""
    if relation in ("at least", None):
        return count >= wanted
    if relation == "less than":
        return count < wanted
    raise CannotTellError(f"relation {relation!r} is neither 'at least' nor 'less than'")


def _occurrences(text: str, keyword: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def keywords_existence(text: str, arguments: Arguments) -> bool:
    """Every keyword occurs, in any case."""
    return all(_occurrences(text, keyword) for keyword in _strings(arguments, "keywords"))


def keywords_frequency(text: str, arguments: Arguments) -> bool:
    """A keyword occurs at least, or less than, so many times."""
    return related(
        _occurrences(text, _string(arguments, "keyword")), _number(arguments, "frequency"), arguments.get("relation")
    )


def forbidden_words(text: str, arguments: Arguments) -> bool:
    """None of the words occurs as a whole word."""
    words = _strings(arguments, "forbidden_words", "keywords")
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def letter_frequency(text: str, arguments: Arguments) -> bool:
    """A letter occurs at least, or less than, so many times, in any case."""
    letter = _string(arguments, "letter").lower()
    return related(text.lower().count(letter), _number(arguments, "let_frequency"), arguments.get("let_relation"))


# fmt: off
_STOP_WORDS = {
    "en": [
        "the",
        "and",
        "of",
        "to",
        "is",
        "in",
        "that",
        "it",
        "for",
        "with",
        "as",
        "was",
        "are",
        "this",
        "not",
        "you",
        "be",
        "on",
    ],
    "de": ["der", "die", "das", "und", "ist", "nicht", "ein", "eine", "zu", "mit", "auf", "für", "den", "sich", "auch"],
    "fr": ["le", "la", "les", "et", "est", "une", "des", "dans", "pour", "que", "qui", "pas", "sur", "avec", "du"],
    "es": ["el", "la", "los", "las", "y", "es", "una", "que", "en", "para", "con", "por", "del", "se", "como"],
    "it": ["il", "la", "che", "e", "di", "un", "una", "per", "non", "con", "sono", "del", "della", "gli", "si"],
    "pt": ["o", "a", "os", "as", "e", "que", "um", "uma", "para", "com", "não", "do", "da", "em", "por"],
    "nl": ["de", "het", "een", "en", "van", "is", "niet", "dat", "op", "voor", "met", "zijn", "te", "aan"],
    "sw": ["na", "ya", "wa", "kwa", "ni", "katika", "la", "za", "cha", "kuwa", "hii", "yako", "wewe", "kama", "au"],
}
# fmt: on
_SCRIPTS = {
    "ru": r"[а-яё]",
    "bg": r"[а-я]",
    "hi": r"[\u0900-\u097f]",
    "mr": r"[\u0900-\u097f]",
    "ne": r"[\u0900-\u097f]",
    "bn": r"[\u0980-\u09ff]",
    "pa": r"[\u0a00-\u0a7f]",
    "gu": r"[\u0a80-\u0aff]",
    "ta": r"[\u0b80-\u0bff]",
    "te": r"[\u0c00-\u0c7f]",
    "kn": r"[\u0c80-\u0cff]",
    "th": r"[\u0e00-\u0e7f]",
    "ko": r"[\uac00-\ud7af]",
    "ja": r"[\u3040-\u30ff]",
    "zh": r"[\u4e00-\u9fff]",
    "ar": r"[\u0600-\u06ff]",
    "fa": r"[\u0600-\u06ff]",
    "ur": r"[\u0600-\u06ff]",
    "he": r"[\u0590-\u05ff]",
    "el": r"[α-ω]",
}  # fmt: skip


def response_language(text: str, arguments: Arguments) -> bool:
    """Most letters are of the language's script; Latin languages by which stop words prevail.

    Languages that share a script (Hindi and Marathi) are not told apart.
    """
    language = _string(arguments, "language")
    letters = [letter for letter in text.lower() if letter.isalpha()]
    if not letters:
        raise CannotTellError("no letters")
    if script := _SCRIPTS.get(language):
        return len(re.findall(script, text.lower())) > 0.5 * len(letters)
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {name: sum(word in stops for word in words) for name, stops in _STOP_WORDS.items()}
    best = max(counts.values())
    foreign = sum(not letter.isascii() and not "à" <= letter <= "ÿ" for letter in letters) > 0.5 * len(letters)
    if language in counts and (best >= 2 or foreign):
        return not foreign and counts[language] == best
    raise CannotTellError(f"language {language!r} cannot be told from this text")


def number_sentences(text: str, arguments: Arguments) -> bool:
    """So many sentences, counted by final marks followed by space or the end."""
    return related(
        len(sentences(_without_abbreviations(text))), _number(arguments, "num_sentences"), arguments.get("relation")
    )


def sentences(text: str) -> list[str]:
    """What stands before each run of final marks that space, a closing mark or the end follows; and the rest."""
    found, begun = [], 0
    for marks in re.finditer(r"[.!?]+", text):
        said, after = text[begun : marks.start()].strip(), text[marks.end() : marks.end() + 1]
        begun = marks.end()
        if said and (not after or after.isspace() or after in "\"')]*"):
            found.append(said)
    rest = text[begun:].strip()
    return [*found, rest] if rest else found


def _without_abbreviations(text: str) -> str:
    text = re.sub(
        r"\b(Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|Inc|Ltd|Co|U\.S)\.", lambda found: found[0].replace(".", ""), text
    )
    return re.sub(r"(\d)\.(\d)", r"\1\2", text)


def number_paragraphs(text: str, arguments: Arguments) -> bool:
    """Exactly so many paragraphs between `***` lines; an empty one in the middle breaks the rule."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    filled = [part for part in parts if part.strip()]
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return len(filled) == _number(arguments, "num_paragraphs")


def number_words(text: str, arguments: Arguments) -> bool:
    """So many words."""
    return related(len(_words(text)), _number(arguments, "num_words"), arguments.get("relation"))


def nth_paragraph_first_word(text: str, arguments: Arguments) -> bool:
    """So many paragraphs between blank lines, and the n-th one starts with a word."""
    paragraphs = [part.strip() for part in re.split(r"\n\n", text) if part.strip()]
    nth = _number(arguments, "nth_paragraph")
    if not 1 <= nth <= len(paragraphs) or len(paragraphs) != _number(arguments, "num_paragraphs"):
        return False
    first = re.match(r"[\"'“‘]*([\w-]+)", paragraphs[nth - 1])
    return first is not None and first[1].lower() == _string(arguments, "first_word").lower()


def number_placeholders(text: str, arguments: Arguments) -> bool:
    """At least so many `[placeholders]`, each within one line."""
    count = 0
    for line in text.split("\n"):
        opened = line.find("[")
        while opened >= 0 and (closed := line.find("]", opened)) >= 0:
            count, opened = count + 1, line.find("[", closed)
    return count >= _number(arguments, "num_placeholders")


def postscript(text: str, arguments: Arguments) -> bool:
    """A line starts with the postscript mark, in any case and with free spacing between its letters."""
    mark = _string(arguments, "postscript_marker").strip().lower()
    letters = r"\.?\s?".join(re.escape(letter) for letter in mark if letter.isalpha()) or re.escape(mark)
    begins = re.compile(rf"\W*{letters}")
    return any(begins.match(line) for line in text.lower().split("\n"))


def number_bullet_lists(text: str, arguments: Arguments) -> bool:
    """Exactly so many bullets, `* ` or `- `."""
    lines = [line.strip() for line in text.split("\n")]
    count = sum(line.startswith("-") or (line[:1] == "*" and line[1:2] not in ("", "*")) for line in lines)
    return count == _number(arguments, "num_bullets")


def constrained_response(text: str, arguments: Arguments) -> bool:
    """One of three fixed answers occurs."""
    return any(answer in text for answer in ("My answer is yes.", "My answer is no.", "My answer is maybe."))


def number_highlighted_sections(text: str, arguments: Arguments) -> bool:
    """At least so many `*highlighted*` or `**highlighted**` parts with something in them."""
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part.strip("*").strip()]
    rest = re.sub(r"\*\*[^\n*]*\*\*", "", text)
    single = [part for part in re.findall(r"\*[^\n*]*\*", rest) if part.strip("*").strip()]
    return len(double) + len(single) >= _number(arguments, "num_highlights")


def multiple_sections(text: str, arguments: Arguments) -> bool:
    """At least so many parts that start with the section mark and a number."""
    mark = _string(arguments, "section_spliter", "section_splitter").strip()
    found = len(re.split(rf"\s?{re.escape(mark)}\s?\d+\s?", text)) - 1
    return found >= _number(arguments, "num_sections")


def json_format(text: str, arguments: Arguments) -> bool:
    """The whole text is JSON, with or without a code fence."""
    inner = text.strip().removesuffix("```").removeprefix("```")
    for name in ("json", "JSON", "Json"):
        inner = inner.removeprefix(name)
    try:
        json.loads(inner.strip(), parse_int=str, parse_float=str)  # long numbers are JSON too
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str, arguments: Arguments) -> bool:
    """A `<<title>>` with something in it, within one line."""
    for line in text.split("\n"):
        opened, closed = line.find("<<"), line.rfind(">>")
        if 0 <= opened < closed - 2 and line[opened:closed].strip("<>").strip():
            return True
    return False


def two_responses(text: str, arguments: Arguments) -> bool:
    """Two different parts, separated by six asterisks."""
    parts = text.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(text: str, arguments: Arguments) -> bool:
    """Starts with the request, repeated."""
    return text.strip().lower().startswith(_string(arguments, "prompt_to_repeat").strip().lower())


def end_checker(text: str, arguments: Arguments) -> bool:
    """Ends with the phrase, in any case; quotation marks around the whole are free."""
    return text.strip().strip('"').lower().endswith(_string(arguments, "end_phrase").strip().lower())


def quotation(text: str, arguments: Arguments) -> bool:
    """Wrapped in double quotation marks."""
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == '"' and stripped[-1] == '"'


def capital_word_frequency(text: str, arguments: Arguments) -> bool:
    """So many words in capitals."""
    count = sum(word.isupper() for word in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text))
    return related(count, _number(arguments, "capital_frequency"), arguments.get("capital_relation"))


def english_capital(text: str, arguments: Arguments) -> bool:
    """No small letter, and at least one capital."""
    return text.isupper()


def english_lowercase(text: str, arguments: Arguments) -> bool:
    """No capital letter, and at least one small one."""
    return text.islower()


def no_comma(text: str, arguments: Arguments) -> bool:
    """No comma anywhere."""
    return "," not in text


RULES: dict[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keywords_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
"""Every rule of IFEval by its public id."""
