"""What in a study contradicts what: one sentence per contradiction, naming the row and what to change.

`Study` asks here when it is built, so nothing expensive starts from rows that cannot work together.

Belongs here: relations between rows, and ranges of their numbers. Does not belong here: the row types (`study`).
"""

import re
from collections.abc import Iterator
from math import floor
from statistics import NormalDist
from typing import TYPE_CHECKING, cast

from amr_pipeline.categories import COUNTED_HEADS, FACTS, Category

if TYPE_CHECKING:
    from amr_pipeline.studies.study import (
        AdaptivePasses,
        Benchmark,
        CategoryRule,
        ConversationVerifier,
        Distiller,
        Reads,
        Sampling,
        SecondOpinion,
        SelectionRecipe,
        Study,
        TrainingRecipe,
    )

NUMBERS_OF_SHARDS = (1, 2, 4, 8, 16, 32, 64)
"""Powers of two, so that shards are leading bits; at most 64 because Dagster's staleness needs under 100 partitions."""

HOTTEST = 2.0
"""Highest temperature that engines and hosted APIs take."""

RESERVED = "all"
"""The partition key of what has no partitions (`assets.partitions.ALL`)."""

Names = dict[str, tuple[str, ...]]
"""Kind of row: names of the study's rows of that kind."""


def contradictions_of(study: "Study") -> Iterator[str]:
    """Every contradiction between the study's rows; none when they can work together."""
    names: Names = {
        "source": tuple(row.name for row in study.sources),
        "benchmark": tuple(row.name for row in study.benchmarks),
        "distiller": tuple(row.name for row in study.distillers),
        "selection recipe": tuple(row.name for row in study.selection_recipes),
        "training recipe": tuple(row.name for row in study.training_recipes),
        "verifier of category": tuple(str(row.category) for row in study.verifiers),
    }
    for kind, found in names.items():
        yield from _about_names(kind, found)
    if study.num_shards not in NUMBERS_OF_SHARDS:
        yield f"num_shards is {study.num_shards}; wanted a power of two from 1 to 64"
    yield from _about_addresses(study)
    for source in study.sources:
        if source.category is None and source.columns.category is None:
            yield f"source {source.name!r} has neither category= nor a column that names one"
    for benchmark in study.benchmarks:
        yield from _about_benchmark(benchmark)
        yield from _about_sampling(f"benchmark {benchmark.name!r}", benchmark.sampling)
    yield from _about_distillers(study.distillers)
    conversation = study.verifier(Category.CONVERSATION)
    if conversation is not None:
        yield from _about_heads(cast("ConversationVerifier", conversation))
    for selection in study.selection_recipes:
        yield from _about_selection(selection, names)
    for opinion in study.second_opinions:
        yield from _about_second_opinion(study, opinion)
    for training in study.training_recipes:
        yield from _about_training(training, names)
    yield from _about_order(study.training_recipes)


def _about_names(kind: str, names: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(set(names)):
        if names.count(name) > 1:
            yield f"{kind} {name!r} occurs {names.count(name)} times"
        if name == RESERVED:
            yield f"{kind} {name!r}: tables without partitions are stored under this name; choose another"
        # Names become folder names and Dagster partition keys; "|" separates the two dimensions of a partition.
        if not (name and all(letter.isascii() and (letter.isalnum() or letter in "_-.") for letter in name)):
            yield f"{kind} {name!r} may hold only letters, digits, '_', '-' and '.'"


def _about_addresses(study: "Study") -> Iterator[str]:
    for kind, rows in (("source", study.sources), ("benchmark", study.benchmarks), ("distiller", study.distillers)):
        for row in rows:
            yield from _about_reads(f"{kind} {row.name!r}", row.reads)


def _about_reads(where: str, reads: "Reads | None") -> Iterator[str]:
    """Nothing is fetched from an address that a row could point into a private network."""
    path = getattr(reads, "path", None)
    if path is not None and not is_readable_address(path):
        yield (
            f"{where} reads {path!r}; wanted a local path or an s3:// address (download other files and name the copy)"
        )
    repository = getattr(reads, "repository", None)
    if repository is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        yield f"{where} reads the hub data set {repository!r}; wanted OWNER/NAME"


def is_readable_address(path: str) -> bool:
    """Whether it is a local path or `s3://`; chains of file systems (`a::b`) and every other scheme are not."""
    scheme, separator, _ = path.partition("://")
    return "::" not in path and (not separator or scheme in ("file", "s3"))


def _about_benchmark(row: "Benchmark") -> Iterator[str]:
    if row.num_samples < 1:
        yield f"benchmark {row.name!r} has num_samples {row.num_samples}; wanted at least 1"
    if row.category is None and row.columns.category is None:
        yield f"benchmark {row.name!r} has neither category= nor a column that names one"


def _about_distillers(rows: "tuple[Distiller, ...]") -> Iterator[str]:
    fingerprints = [row.distiller_fingerprint for row in rows]
    if len(set(fingerprints)) < len(fingerprints):
        yield (
            "two distillers would write the same responses (equal fingerprints); "
            "remove one or change its model or sampling"
        )
    for row in rows:
        if row.name == "joint":
            yield "distiller 'joint' has the name of the row over all distillers; choose another"
        if row.num_passes < 1:
            yield f"distiller {row.name!r} has num_passes {row.num_passes}; wanted at least 1"
        if row.engine == "imported" and (row.reads is None or row.responses_at is None):
            yield f"distiller {row.name!r} is imported and needs reads= and responses_at="
        yield from _about_sampling(f"distiller {row.name!r}", row.sampling)
        if row.engine == "http":
            yield from _about_http(row)
        if row.passes_policy is not None:
            yield from _about_adaptive_passes(row, row.passes_policy, {other.name: other for other in rows})


def _about_sampling(where: str, sampling: "Sampling") -> Iterator[str]:
    """What engines refuse, each in its own words, once models are loaded."""
    if not 0 <= sampling.temperature <= HOTTEST:
        yield f"{where} has temperature {sampling.temperature}; wanted 0 to {HOTTEST:g}"
    if not 0 < sampling.top_p <= 1:
        yield f"{where} has top_p {sampling.top_p}; wanted above 0 and at most 1"
    if sampling.top_k < 0:
        yield f"{where} has top_k {sampling.top_k}; wanted 0 (no limit) or more"
    if sampling.max_tokens < 1:
        yield f"{where} has max_tokens {sampling.max_tokens}; wanted at least 1"


def _about_http(row: "Distiller") -> Iterator[str]:
    where = f"distiller {row.name!r} is asked over HTTP"
    if row.model.startswith("package:"):
        yield f"{where}, where nobody knows {row.model!r}; name the model as its server does"
    if row.sampling.max_tokens >= row.max_model_len:
        # Nothing here counts a prompt's tokens, so nothing can lower max_tokens to what a long one leaves.
        yield (
            f"{where} and has max_tokens {row.sampling.max_tokens} of a context of {row.max_model_len}, which leaves "
            "no room for a prompt; servers refuse that"
        )


def fewest_to_settle(confidence: float) -> int:
    """Passes after which the tier of a query that always passes, or never, is settled; no other query is earlier.

    The lower end of n / n is n / (n + z^2), which must exceed 5/8.
    """
    return floor(5 / 3 * NormalDist().inv_cdf((1 + confidence) / 2) ** 2) + 1


def _about_adaptive_passes(
    row: "Distiller", policy: "AdaptivePasses", distillers: "dict[str, Distiller]"
) -> Iterator[str]:
    where = f"distiller {row.name!r}, passes_policy"
    if not 1 <= policy.first <= row.num_passes <= policy.most or policy.step < 1:
        yield (
            f"{where}: first {policy.first}, num_passes {row.num_passes}, most {policy.most}, step {policy.step}; "
            "wanted 1 <= first <= num_passes <= most and step >= 1"
        )
    elif not 0 < policy.confidence < 1:
        yield f"{where}: confidence {policy.confidence} is not between 0 and 1"
    elif max(range(policy.first, row.num_passes, policy.step), default=0) < fewest_to_settle(policy.confidence):
        yield (
            f"{where}: at confidence {policy.confidence} a tier takes {fewest_to_settle(policy.confidence)} passes to "
            f"settle, and no query is looked at between that and num_passes {row.num_passes}, so nothing can be saved; "
            "lower the confidence, first or step, or raise num_passes"
        )
    for name in policy.unless_settled_by:
        if name not in distillers:
            yield f"{where}: unless_settled_by names {name!r}, which the study does not have"
        elif distillers[name].declared_cost >= row.declared_cost:
            yield (
                f"{where}: unless_settled_by names {name!r}, which is not cheaper "
                "(gpus_per_replica x mean_response_tokens)"
            )


def _about_heads(row: "ConversationVerifier") -> Iterator[str]:
    if missing := [name for name in COUNTED_HEADS if row.heads.count(name) != 1]:
        yield f"verifier {row.name!r} has heads {row.heads}; wanted {', '.join(missing)} among them, once"
    if row.judge is not None and row.reward_model is not None:
        yield f"verifier {row.name!r} has a judge and a reward model; name one of them"


def _about_selection(recipe: "SelectionRecipe", names: Names) -> Iterator[str]:
    yield from (
        f"selection recipe {recipe.name!r} names distiller {name!r}, which the study does not have"
        for name in recipe.distillers
        if name not in names["distiller"]
    )
    categories = [rule.category for rule in recipe.rules]
    if len(set(categories)) < len(categories):
        yield f"selection recipe {recipe.name!r} has two rules for one category"
    for rule in recipe.rules:
        yield from _about_rule(recipe.name, rule)


def _about_rule(recipe: str, rule: "CategoryRule") -> Iterator[str]:
    where = f"selection recipe {recipe!r}, {rule.category}"
    if not 0 <= rule.lowest_score < FACTS[rule.category].highest_score:
        yield f"{where}: lowest_score {rule.lowest_score} is outside the category's range"
    if rule.cv_threshold < 0:
        yield f"{where}: cv_threshold {rule.cv_threshold} is negative"
    if not 0 <= rule.easy_keep_probability <= 1:
        yield f"{where}: easy_keep_probability {rule.easy_keep_probability} is not between 0 and 1"
    if rule.quota is not None and rule.quota < 0:
        yield f"{where}: quota {rule.quota} is negative"


def _about_second_opinion(study: "Study", row: "SecondOpinion") -> Iterator[str]:
    category = row.verifier.category
    where = f"second opinion on {row.recipe!r}, {category}"
    recipes = [recipe for recipe in study.selection_recipes if recipe.name == row.recipe]
    if not recipes:
        yield f"{where}: no selection recipe has that name"
    elif category not in {rule.category for rule in recipes[0].rules}:
        yield f"{where}: the recipe has no rule for that category, so it chooses no row to judge"
    if row.num_responses < 1:
        yield f"{where}: num_responses is {row.num_responses}; wanted at least 1"
    if row.verifier in study.verifiers:
        yield f"{where}: its verifier is the study's own, which would agree with itself; name a different one"
    if [(one.recipe, one.verifier.category) for one in study.second_opinions].count((row.recipe, category)) > 1:
        yield f"{where}: there are two; keep one"


def _about_training(recipe: "TrainingRecipe", names: Names) -> Iterator[str]:
    where = f"training recipe {recipe.name!r}"
    if recipe.subset not in names["selection recipe"]:
        yield f"{where} trains on subset {recipe.subset!r}, which no selection recipe makes"
    if (recipe.starts_from is None) == (recipe.continues is None):
        yield f"{where} needs exactly one of starts_from= and continues="
    if recipe.continues is not None and recipe.continues not in names["training recipe"]:
        yield f"{where} continues {recipe.continues!r}, which the study does not have"
    if not 0 < recipe.learning_rate < 1:
        yield f"{where} has learning rate {recipe.learning_rate}; wanted between 0 and 1"
    yield from (
        f"{where} names benchmark {name!r}, which the study does not have"
        for name in recipe.benchmarks
        if name not in names["benchmark"]
    )


def _about_order(rows: "tuple[TrainingRecipe, ...]") -> Iterator[str]:
    continues = {row.name: row.continues for row in rows}
    for name in continues:
        seen, step = {name}, continues[name]
        while step is not None and step not in seen:
            seen.add(step)
            step = continues.get(step)
        if step == name:
            yield f"training recipe {name!r} continues itself, directly or through others"
