import json
import random
from pathlib import Path

from amr_pipeline.engines.verify_file import verify_file

RECORDS: list[object] = [
    {"id": "m", "category": "math", "answer": "<think>x</think><answer>\\boxed{2}</answer>", "ground_truth": "2"},
    {"id": "w", "category": "math", "answer": "\\boxed{3}", "ground_truth": 2},
    {
        "id": "c",
        "category": "code",
        "answer": "```python\ndef f(x):\n    return x + 1\n```",
        "test_case": {"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(1) == 2"]},
    },
    {
        "id": "i",
        "category": "instruction follow",
        "answer": "HI",
        "instruction_constrain": {"instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]},
    },
    {"id": "s", "category": "science", "answer": "(B)", "ground_truth": "B"},
    {"id": "o", "category": "other", "answer": "hello"},
    {"id": "m", "category": "math", "answer": "\\boxed{2}", "ground_truth": "2", "finish_reason": "length"},
    {"id": 7, "category": "poetry", "answer": "x"},
    {"id": {"a": 1}, "category": "math", "answer": None},
    [1, 2],
    None,
]


def test_one_verdict_per_line_in_order_whatever_the_input(tmp_path: Path):
    lines = [json.dumps(record).encode() for record in RECORDS] + [
        b"",
        b'{"id": "cut',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"id": 1' + b"0" * 5000 + b"}",
        b'{"id":"big","answer":"' + b"x" * 2**20 + b'"}',
    ]
    source, target, said = tmp_path / "in.jsonl", tmp_path / "out.jsonl", []
    source.write_bytes(b"\n".join(lines))
    counts = verify_file(str(source), str(target), say=said.append)
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(found) == len(lines) == sum(counts.values())
    assert [one["verdict"] for one in found[:7]] == [
        "passed",
        "failed",
        "passed",
        "passed",
        "passed",
        "undecided",
        "failed",
    ]
    assert found[5]["cause"] == "judge_unavailable"
    assert all((one["verdict"], one["cause"]) == ("undecided", "malformed") for one in found[7:])
    assert [one["id"] for one in found[:8]] == ["m", "w", "c", "i", "s", "o", "m", 7]
    assert set(found[0]) == {"id", "verdict", "cause", "verify_score", "verifier", "evidence"}
    assert list(tmp_path.iterdir()) == [source, target] or set(tmp_path.iterdir()) == {source, target}
    assert said


ANYTHING: list[object] = [
    None, True, 0, -1, 1e308, float("nan"), "", "\x00", "\ud800", "\\boxed{1}", "```python\nprint(1)\n```", "<think>", "[]", "[[[", [], [1], {}, {"a": {}},
    '{"call_type":"std","inputs":["1"],"outputs":["1"]}', {"call_type": "std", "inputs": "a", "outputs": [1]}, {"call_type": "std", "inputs": [None, {}], "outputs": [[], 1]},
    {"call_type": "program", "program": "assert", "fn_name": "f"}, {"call_type": "assert", "fn_name": None, "assert_case": ["assert f(" + "[" * 80 + "]" * 80 + ")"]},
    {"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(float('nan'))==1", "import os"]}, {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": 5}]},
    {"instruction_id_list": ["keywords:existence", 7], "kwargs": "x"}, [{"id": "length_constraints:number_words", "kwargs": {"num_words": "x"}}], [{"id": None}],
]  # fmt: skip


def test_records_with_anything_in_any_field_end_as_verdicts(tmp_path: Path):
    draw = random.Random(7)
    fields = (
        "id",
        "question",
        "answer",
        "ground_truth",
        "test_case",
        "instruction_constrain",
        "finish_reason",
        "language",
    )
    categories = ("math", "code", "science", "instruction follow", "other")
    records = [
        {
            "category": draw.choice(categories),
            **{field: draw.choice(ANYTHING) for field in fields if draw.random() < 0.8},
        }
        for _ in range(300)
    ]
    for record in records:
        if draw.random() < 0.7:
            record["answer"] = draw.choice([value for value in ANYTHING if isinstance(value, str)])
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, records)))
    counts = verify_file(str(source), str(target), say=lambda line: None)
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(found) == len(records) == sum(counts.values())
    assert {one["verdict"] for one in found} <= {"passed", "failed", "undecided"}
    assert all((one["cause"] is None) == (one["verdict"] != "undecided") for one in found)
    assert all((one["verify_score"] is None) == (one["verdict"] == "undecided") for one in found)


def test_a_foreign_constraint_leaves_its_own_line_undecided(tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {
            "id": name,
            "category": "instruction follow",
            "answer": "HI",
            "instruction_constrain": [{"id": name, "kwargs": {}}],
        }
        for name in ("change_case:english_capital", "made:up")
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    verify_file(str(source), str(target), say=lambda line: None)
    known, unknown = map(json.loads, target.read_text().splitlines())
    assert known["verdict"] == "passed"
    assert (unknown["verdict"], unknown["cause"]) == ("undecided", "unsupported")
    assert "made:up" in unknown["evidence"]
