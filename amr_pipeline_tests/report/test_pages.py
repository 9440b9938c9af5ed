"""Pages are self-contained, complete, and safe to open whatever a query or a model wrote."""

from html.parser import HTMLParser

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.report.pages import Section, difficulty_page, page
from amr_pipeline_tests.released import HOSTILE, world

ATTACKS = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "<!-- <style>*{display:none}</style>",
    "&lt;already&gt;",
    HOSTILE,
]


class Elements(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_text_stays_text_wherever_it_stands(attack):
    sections = [Section(heading=attack, text=attack, picture=b"png", rows=([attack], [[attack], [1], [None]]))]
    elements = Elements(page(attack, {attack: attack}, sections))
    plain = Elements(
        page("t", {"n": "v"}, [Section(heading="h", text="t", picture=b"png", rows=(["c"], [["x"], [1], [None]]))])
    )
    assert [name for name, _ in elements.found] == [name for name, _ in plain.found]
    assert elements.text.count(attack) == 8  # title and heading, name and number, heading, text, header, cell
    assert not any(key.startswith("on") for _, attributes in elements.found for key in attributes)


def test_a_page_fetches_and_runs_nothing():
    elements = Elements(difficulty_page("Micro", world().difficulty, dropped={"url": 3}))
    assert elements.count("script") == elements.count("link") == elements.count("iframe") == 0
    images = [attributes["src"] or "" for tag, attributes in elements.found if tag == "img"]
    assert len(images) == 5
    assert all(address.startswith("data:image/png;base64,") for address in images)
    policies = [attributes for tag, attributes in elements.found if "http-equiv" in attributes]
    assert policies[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_difficulty_page_says_the_numbers():
    text = Elements(difficulty_page("Micro", world().difficulty, dropped={"url": 3, "table": 1})).text
    for expected in (
        "Micro",
        "4queries graded",
        "2distillers",
        "20responses decided",
        "1 (4.8%)undecided",
        "4queries dropped",
    ):
        assert expected in text
    assert "0.250 (" in text
    assert "all together" in text


def test_the_difficulty_page_says_what_adaptive_passes_did_and_nothing_where_there_are_none():
    numbers = dict.fromkeys(("queries", "fixed", "spent", "saved", "not asked", "settled early", "given more"), 7)
    spent = {"weak": {**numbers, "moved": 3, "before": 0.5, "after": 0.25}}
    assert "0.250" in difficulty_page("t", world().difficulty, dropped={}, spent=spent)
    assert "adaptive" not in difficulty_page("t", world().difficulty, dropped={})


def test_the_difficulty_page_shows_examples_escaped():
    examples = (["query", "pass rate"], [[HOSTILE, 0.5]])
    elements = Elements(difficulty_page("Micro", world().difficulty, dropped={}, examples=examples))
    assert HOSTILE in elements.text
    assert "Queries worth a look" in elements.text
    assert elements.count("script") == 0


@pytest.mark.parametrize(
    "frame", [tables.DIFFICULTY.empty(), world().difficulty.filter(pl.col("distiller") == "joint")]
)
def test_the_difficulty_page_exists_before_there_is_anything_to_say(frame):
    assert "queries graded" in difficulty_page("Micro", frame, dropped={})


def test_numbers_stand_to_the_right_and_absent_ones_are_dashes():
    html = page("t", {}, [Section(heading="h", rows=(["a"], [[1234], [0.5], [None], ["x"]]))])
    assert '<td class="number">1,234</td>' in html
    assert '<td class="number">0.500</td>' in html
    assert '<td class="number">-</td>' in html
    assert "<td>x</td>" in html
