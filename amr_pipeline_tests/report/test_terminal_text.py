import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.report.terminal_text import ascii_json, plain

HOSTILE = {
    "colours and cursor": ("\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1Hhome", "red home"),
    "one-byte introducer": ("\x9b31mred", "red"),
    "a title": ("\x1b]0;owned\x07said", "]0;owned said"),
    "the clipboard": ("\x1b]52;c;aGk=\x1b\\said", "]52;c;aGk= \\said"),
    "a link that never ends": ("\x1b]8;;http://x\x1b", "]8;;http://x"),
    "a device string": ("\x1bPq#0\x1b\\x", "Pq#0 \\x"),
    "backspaces and returns": ("good\x08\x08\x08\x08evil\rgood", "good evil good"),
    "other lines": ("a\nb\u2028c\x0bd\x85e", "a b c d e"),
    "turned around": ("\u202egnp.exe\u2066 \u200bx", "gnp.exe x"),
    "half a pair": ("a\ud83d b", "a b"),
    "null, bell, delete": ("a\x00b\x07c\x7fd", "a b c d"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_would_act_on_is_gone_and_what_people_read_stays(text: str, shown: str):
    assert plain(text) == shown


@given(st.text())
def test_nothing_but_printable_characters_is_left(text: str):
    assert plain(text).isprintable()
    assert plain(text).encode().decode() == plain(text), "a terminal can be sent it"


def test_words_stay_as_they_are_and_what_is_cut_says_so():
    assert plain("Größe: 3 × 4, 数学") == "Größe: 3 × 4, 数学"
    assert plain("x" * 10, 4) == "xxxx... (10 characters)"
    assert plain("x" * 4, 4) == "xxxx"


def test_a_document_holds_no_control_character():
    document = ascii_json(json.dumps({"a": "\x1b[31m\x7f\x9b\u202e"}))
    assert document.isascii()
    assert document.isprintable()
    assert json.loads(document) == {"a": "\x1b[31m\x7f\x9b\u202e"}
