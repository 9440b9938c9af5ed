import json
from dataclasses import replace
from pathlib import Path

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.engines.imported_responses import imported_responses, stored_responses
from amr_pipeline.queries.identity import query_id
from amr_pipeline.responses.generation import GenerationRequest, response_id
from amr_pipeline.responses.prompts import prompt_messages
from amr_pipeline.studies.study import Distiller, JsonLines, PromptSuffix, ResponseColumns, Sampling


def distiller(path: Path, columns: ResponseColumns, passes: int = 2) -> Distiller:
    return Distiller(
        name="d", model="d", revision="imported", num_passes=passes, sampling=Sampling(temperature=0, top_p=1, max_tokens=1),
        max_model_len=1, engine="imported", categories=(Category.MATH,), reads=JsonLines(path=str(path)), responses_at=columns,
    )  # fmt: skip


def request(row: Distiller, question: str, index: int) -> GenerationRequest:
    identity = query_id([{"role": "user", "content": question}])
    return GenerationRequest(
        response_id=response_id(identity, row.distiller_fingerprint, index), messages=(("user", question),), seed=1
    )


def test_responses_join_by_text_and_pass_not_by_position(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    rows = [
        {"question": "b?", "answers": ["b0", "b1"]},
        {"question": " a? ", "answers": ["a0", "a1"]},
        {"answers": ["lost"]},
        {"question": "c?", "answers": [None]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    row = distiller(path, ResponseColumns(response="answers"))
    found = list(
        imported_responses(
            row, [request(row, "a?", 1), request(row, "b?", 0), request(row, "a?", 0), request(row, "z?", 0)]
        )
    )
    assert [one.text for one in found] == ["a1", "b0", "a0"]
    assert {one.prompt_tokens for one in found} == {None}, "nobody counted them"
    stored = stored_responses(row)
    assert stored.num_responses == 4
    assert stored.leftovers == {"no question": 1, "no response text": 1, "malformed": 1}


def test_rows_of_one_model_and_bodies_of_functions(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    rows = [
        {"question": "q", "head": "def f():\n", "body": "    return 1", "m": "x", "why": "length"},
        {"question": "q", "head": "", "body": "other", "m": "y"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ResponseColumns(
        response="body", prefix_column="head", fenced=True, where=(("m", "x"),), finish_reason="why"
    )
    row = distiller(path, columns, passes=1)
    (found,) = imported_responses(row, [request(row, "q", 0)])
    assert found.text == "```python\ndef f():\n    return 1\n```"
    assert found.finish_reason == "length"


def texts(path: Path, rows: list[dict[str, object]], columns: ResponseColumns, passes: int = 3) -> list[str | None]:
    """What each pass of question q is."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stored_responses.cache_clear()
    row = distiller(path, columns, passes)
    asked = [request(row, "q", index) for index in range(passes)]
    found = {one.response_id: one.text for one in imported_responses(row, asked)}
    return [found.get(one.response_id) for one in asked]


def test_a_given_pass_index_counts_and_not_the_line(tmp_path: Path):
    path, columns = tmp_path / "r.jsonl", ResponseColumns(response="r", question="question", pass_index="n")
    rows: list[dict[str, object]] = [{"question": "q", "r": "third", "n": 2}, {"question": "q", "r": "first", "n": 0}]
    assert texts(path, rows, columns) == ["first", None, "third"]
    twice: list[dict[str, object]] = [{"question": "q", "r": text, "n": 0} for text in "ab"]
    assert texts(path, twice, columns) == texts(path, twice[::-1], columns)
    bad: list[dict[str, object]] = [*twice, {"question": "q", "r": "c", "n": "0"}, {"question": "q", "r": "d"}]
    assert texts(path, bad, columns)[1:] == [None, None]
    assert stored_responses(distiller(path, columns, 3)).leftovers == {"pass index given twice": 1, "no pass index": 2}
    listed: list[dict[str, object]] = [{"question": "q", "r": ["x", "y"], "n": [1, 0]}]
    assert texts(path, listed, columns) == ["y", "x", None]


def test_without_one_shuffled_lines_are_the_same_passes(tmp_path: Path):
    path, columns = tmp_path / "r.jsonl", ResponseColumns(response="r", question="question")
    rows: list[dict[str, object]] = [{"question": "q", "r": text} for text in "abc"]
    found = texts(path, rows, columns)
    assert sorted(map(str, found)) == ["a", "b", "c"]
    assert texts(path, rows[::-1], columns) == texts(path, [rows[1], rows[0], rows[2]], columns) == found


def test_a_null_in_a_list_leaves_its_own_pass_out(tmp_path: Path):
    columns = ResponseColumns(response="r", question="question")
    assert texts(tmp_path / "r.jsonl", [{"question": "q", "r": ["a", None, "c"]}], columns) == ["a", None, "c"]


SUFFIX = PromptSuffix(category=Category.MATH, text="Box it.")


@pytest.mark.parametrize("system_prompt", [None, "Think."])
@pytest.mark.parametrize("suffixes", [(), (SUFFIX,)], ids=["no suffix", "suffix"])
@pytest.mark.parametrize(
    "turns",
    [
        [("user", "q")],
        [("user", "q\n\nBox it.")],
        [("system", "Think."), ("user", "q")],
        [("system", "Be brief."), ("user", "q"), ("assistant", "a"), ("user", "again")],
    ],
    ids=["plain", "ends like the suffix", "has that system turn", "conversation"],
)
def test_what_a_row_adds_to_a_query_does_not_hide_its_responses(
    tmp_path: Path, turns: list[tuple[str, str]], system_prompt: str | None, suffixes: tuple[PromptSuffix, ...]
):
    query = [{"role": role, "content": content} for role, content in turns]
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"turns": query, "r": ["first", "second"]}) + "\n")
    row = replace(
        distiller(path, ResponseColumns(response="r", messages="turns", question=None)),
        system_prompt=system_prompt,
        prompt_suffixes=suffixes,
    )
    asked = GenerationRequest(
        response_id=response_id(query_id(query), row.distiller_fingerprint, 1),
        messages=prompt_messages(query, Category.MATH, row.system_prompt, row.prompt_suffixes),
        seed=1,
    )
    assert [(one.response_id, one.text) for one in imported_responses(row, [asked])] == [(asked.response_id, "second")]
