"""Decontamination: queries that are, or nearly are, a problem of one of the study's benchmarks.

Three tests, cheapest first: equal comparable text, shared word n-grams with one benchmark item, cosine of
embeddings. Each removal names the item, the test, the score and both texts, so a person can disagree.

Source: DeepDistill 2.2.2 (exact, fuzzy, bge-m3 > 0.9 against AIME 2024).
# ours: against every benchmark of the study, not AIME 2024 alone; the fuzzy rule is n-gram overlap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from amr_pipeline.queries.identity import comparable_text, question_text
from amr_pipeline.studies.study import QueryRules

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to float32 rows of unit length, shape (texts, width)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Why a query counts as a copy of a benchmark item; `score` is 1 for equal texts, else overlap or cosine."""

    item: str
    method: str
    score: float
    text: str

    @property
    def evidence(self) -> str:
        """One line a person can check."""
        return f"{self.method} {self.score:.3f} with {self.item}: {self.text[:1000]}"


class BenchmarkIndex:
    """Benchmark problems, ready to be compared with."""

    def __init__(self, benchmark_queries: pl.DataFrame, rules: QueryRules, embed: Embed | None) -> None:
        self._rules, self._embed = rules, embed
        rows = benchmark_queries.select("benchmark", "query_id", "messages").to_dicts()
        self._items = [f"{row['benchmark']} {row['query_id'][:8]}" for row in rows]
        self._texts = [question_text(row["messages"]) for row in rows]
        comparable = [comparable_text(row["messages"]) for row in rows]
        self._exact = {text: index for index, text in reversed(list(enumerate(comparable)))}
        self._ngrams: dict[tuple[str, ...], set[int]] = {}
        if rules.decontamination_overlap is not None:
            for index, text in enumerate(comparable):
                for ngram in _ngrams(text, rules.decontamination_ngram):
                    self._ngrams.setdefault(ngram, set()).add(index)
        by_cosine = embed is not None and rules.decontamination_similarity is not None and bool(rows)
        self._vectors = embed(comparable) if embed is not None and by_cosine else None

    def contaminations(self, messages: Sequence[Sequence[dict[str, str]]]) -> list[Contamination | None]:
        """For each query the first test that finds a benchmark item, or None."""
        comparable = [comparable_text(turns) for turns in messages]
        found = [self._exactly(text) or self._by_overlap(text) for text in comparable]
        left = [index for index, contamination in enumerate(found) if contamination is None]
        if self._vectors is not None and self._embed is not None and left:
            cosines = self._embed([comparable[index] for index in left]) @ self._vectors.T
            for index, row in zip(left, cosines, strict=True):
                found[index] = self._by_cosine(row)
        return found

    def _exactly(self, text: str) -> Contamination | None:
        index = self._exact.get(text)
        return None if index is None else self._found(index, "equal text", 1.0)

    def _by_overlap(self, text: str) -> Contamination | None:
        threshold = self._rules.decontamination_overlap
        if threshold is None:
            return None
        ngrams = _ngrams(text, self._rules.decontamination_ngram)
        shared: dict[int, int] = {}
        for ngram in ngrams:
            for index in self._ngrams.get(ngram, ()):
                shared[index] = shared.get(index, 0) + 1
        if not shared:
            return None
        index, count = min(shared.items(), key=lambda item: (-item[1], item[0]))
        share = count / len(ngrams)
        return (
            self._found(index, f"{self._rules.decontamination_ngram}-gram overlap", share)
            if share > threshold
            else None
        )

    def _by_cosine(self, cosines: np.ndarray) -> Contamination | None:
        index = int(cosines.argmax())
        threshold = self._rules.decontamination_similarity
        if threshold is None or cosines[index] <= threshold:
            return None
        return self._found(index, "cosine", float(cosines[index]))

    def _found(self, index: int, method: str, score: float) -> Contamination:
        return Contamination(item=self._items[index], method=method, score=score, text=self._texts[index])


def _ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """Word n-grams; none for a text shorter than one, whose equality the first test decides."""
    words = text.split()
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
