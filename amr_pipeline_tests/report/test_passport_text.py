from amr_pipeline.report.passport_text import MATCHES_SHOWN, match_text, passport_text

PASSPORT = {
    "kind": "response",
    "id": "0" * 32,
    "response": {"pass_index": 1, "seed": None, "text": "\x1b[31mred\x1b[0m" + "x" * 1000},
    "verdicts": [
        {"verifier": "math/typed", "is_todays": True, "verify_score": 1.0, "evidence": "\x07" + "y" * 200},
        {"verifier": "math/\x1b[2Jjudge", "is_todays": False, "verify_score": None, "evidence": ""},
    ],
    "training": [],
    "quality": None,
    "sou\x1b[31mrce": "not \x1b]0;known",
}


def test_sections_are_facts_tables_and_sentences():
    said = passport_text(PASSPORT)
    assert said.splitlines()[:5] == [
        f"response {'0' * 32}",
        "",
        "response",
        "  pass_index  1",
        "  seed        -",
    ]
    rows = [line.split() for line in said.splitlines() if line.startswith("  math")]
    assert [row[:3] for row in rows] == [["math/typed", "yes", "1.000"], ["math/judge", "no", "-"]]
    assert "training: -" in said
    assert "quality: -" in said
    assert said.endswith("source: not ]0;known")


def test_nothing_of_a_passport_reaches_a_terminal_as_it_is():
    assert passport_text(PASSPORT).replace("\n", "").isprintable()
    assert "(1,012 characters)" in passport_text(PASSPORT)
    assert "y" * 81 not in passport_text(PASSPORT)


def test_what_a_beginning_may_stand_for_is_listed_up_to_a_number():
    matches = [
        {"kind": "query", "id": f"{index:032x}", "partition": "\x1b[31m00"} for index in range(MATCHES_SHOWN + 2)
    ]
    said = match_text("00000000", matches)
    assert said.count("query") == MATCHES_SHOWN
    assert "and 2 more" in said
    assert "\x1b" not in said
    assert "more" not in match_text("00000000", matches[:2]).replace("give more characters", "")
