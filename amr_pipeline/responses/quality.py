"""Whether a response may teach: perplexity, corpus-wide frequent n-grams, structure.

Difficulty sees every pass; these rules only decide what a subset may contain. Nothing is deleted: the first rule a
response breaks is written beside it.

Source: DeepDistill 2.5.
# ours: tokens are words between white space, and a response with any frequent n-gram is kept out whole; the paper
gives neither tokenizer nor what is removed.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

from amr_pipeline import tables
from amr_pipeline.responses.parsing import parse_response
from amr_pipeline.studies.study import QualityRules


def ngrams(text: str, size: int) -> list[str]:
    """Every run of `size` words, joined by one space, in order and with repeats."""
    words = text.split()
    return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]


def ngram_hash(ngram: str) -> int:
    """64-bit identity of an n-gram: two independent 32-bit checksums, the same on every machine."""
    content = ngram.encode("utf-8", "replace")
    return zlib.crc32(content) << 32 | zlib.adler32(content)


def count_ngrams(texts: Iterable[str], size: int) -> Counter[int]:
    """Occurrences of every n-gram in some responses, by hash; sum the counters of all shards."""
    return Counter(ngram_hash(ngram) for text in texts for ngram in ngrams(text, size))


def frequent(counts: Counter[int], occurrences: int) -> dict[int, int]:
    """N-grams seen more often than `occurrences` in the whole corpus (DeepDistill 2.5: 20)."""
    return {identity: count for identity, count in counts.items() if count > occurrences}


def frequent_ngram_rows(texts: Iterable[str], size: int, counts: Mapping[int, int]) -> pl.DataFrame:
    """`frequent_ngrams` rows: the hashes in `counts` with a text that shows what each one is."""
    shown: dict[int, str] = {}
    for text in texts:
        for ngram in ngrams(text, size):
            identity = ngram_hash(ngram)
            if identity in counts:
                shown.setdefault(identity, ngram)
    rows = [
        {"ngram_hash": identity, "ngram": shown[identity], "occurrences": count}
        for identity, count in sorted(counts.items())
        if identity in shown
    ]
    return pl.DataFrame(rows, schema=tables.FREQUENT_NGRAMS.schema)


def assess(
    responses: pl.DataFrame, perplexities: Mapping[str, float | None], frequent_hashes: set[int], rules: QualityRules
) -> pl.DataFrame:
    """`response_quality` rows of some responses.

    Args:
        responses: `responses` rows joined with their query's `messages`.
        perplexities: by response_id; a missing one means not scored.
        frequent_hashes: the corpus-wide frequent n-grams.
        rules: the study's quality rules.
    """
    rows = []
    for row in responses.iter_rows(named=True):
        parsed = parse_response(row["text"])
        found = 0
        if frequent_hashes and rules.ngram_tokens is not None:
            found = sum(ngram_hash(ngram) in frequent_hashes for ngram in ngrams(row["text"], rules.ngram_tokens))
        assessed = {
            **{name: row[name] for name in _COPIED},
            "think_characters": None if parsed.think_content is None else len(parsed.think_content),
            "answer_characters": None if parsed.answer_content is None else len(parsed.answer_content),
            "perplexity": perplexities.get(row["response_id"]),
            "num_frequent_ngrams": found,
        }
        rows.append({**assessed, "quality_reason": quality_reason(assessed, _num_turns(row["messages"]), rules)})
    return pl.DataFrame(rows, schema=tables.RESPONSE_QUALITY.schema)


_COPIED = ("response_id", "query_id", "category", "distiller", "pass_index", "finish_reason", "response_tokens")


def quality_reason(assessed: Mapping[str, object], num_turns: int, rules: QualityRules) -> str | None:
    """The first rule a response breaks, or None.

    A query has an odd number of turns when the response completes the last exchange (DeepDistill 2.5: even turns).
    """
    perplexity = assessed["perplexity"]
    limit = rules.highest_perplexity
    is_asked_for = limit is not None and rules.perplexity_scorer is not None
    broken = {
        "not finished": assessed["finish_reason"] != "stop",
        "no think content": rules.require_think and assessed["think_characters"] is None,
        "no answer content": rules.require_answer and assessed["answer_characters"] is None,
        "odd number of turns": rules.require_even_turns and (num_turns + 1) % 2 == 1,
        # Too long for the scorer, or an engine that failed: not to know is no reason to let it through.
        "perplexity unknown": is_asked_for and perplexity is None,
        "perplexity": limit is not None and isinstance(perplexity, float) and perplexity > limit,
        "frequent n-gram": bool(assessed["num_frequent_ngrams"]),
    }
    return next((reason for reason, is_broken in broken.items() if is_broken), None)


def _num_turns(messages: Iterable[Mapping[str, str]]) -> int:
    """Turns of user and assistant; a system turn is not part of the exchange."""
    return sum(turn["role"] != "system" for turn in messages)
