"""The card of a release: its README, generated from rows and tables, so that it cannot say what is not so.

Hub data sets read the block between the two lines of dashes. Texts that come from outside the study (none but the
reasons of unknown licences, which its author wrote) never enter the card; names of rows are checked by `Study`.

Belongs here: the words and the order of the card. Does not belong here: counting (`release`, `subsets`).
"""

from collections.abc import Mapping

import polars as pl

from amr_pipeline.release import PASSPORTS, ReleaseDiff, licence_counts
from amr_pipeline.report.layouts import Rows, count_rows, false_pass_rows, mix_rows, rule_rows
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.studies.study import Distiller, SelectionRecipe, Study
from amr_pipeline.subsets import Selection

_HUB_NAMES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC-BY-4.0": "cc-by-4.0", "CC-BY-NC-4.0": "cc-by-nc-4.0"}
"""Spelling of licences in the block that hubs read, where one licence covers all."""


def release_card(
    study: Study,
    recipe: SelectionRecipe,
    *,
    selection: Selection,
    origins: pl.DataFrame,
    changes: ReleaseDiff,
    fingerprints: Mapping[str, str],
    made_from: Mapping[str, str],
    second: pl.DataFrame,
) -> str:
    """The card as markdown.

    Args:
        study: the study it belongs to.
        recipe: its selection recipe.
        selection: what the recipe chose and rejected.
        origins: `release.passports` of the chosen responses.
        changes: against the release before.
        fingerprints: of the verifiers in force, by category.
        made_from: versions or digests of the tables it was made from, by table.
        second: `second_opinions.false_pass_rates` of the subset; no row where no second verifier judged it.
    """
    parts = [
        _front_matter(study, recipe, origins),
        f"# {study.title}: {recipe.name}",
        _summary(selection, origins),
        "## What is in it",
        _markdown(mix_rows(selection.chosen)) if selection.chosen.height else "Nothing was chosen.",
        f"`data/` has one file per category, distiller and pass, as JSON lines and as Parquet. `{PASSPORTS}` says "
        "for every `response_id` which source row, licence, model revision, engine, seed and verdicts it has.",
        "## How it was chosen",
        _rules_in_words(recipe),
        _markdown(rule_rows(recipe)),
        "## Why the rest is not in it",
        f"{selection.considered:,} responses were considered, {selection.chosen.height:,} chosen.",
        _markdown(count_rows(selection.rejected, "responses")),
        "## Who wrote it",
        _markdown(_distiller_rows(study, recipe)),
        "## Who judged it",
        _markdown(_verifier_rows(study, fingerprints)),
        *_second_opinions(second),
        "## Licences",
        _markdown(count_rows(licence_counts(origins), "responses")),
        *_restrictions(study, origins),
        "## Since the last release",
        _markdown((["", "responses"], [[name, count] for name, count in changes.counts.items()])),
        *_changed_fields(changes),
        "## Made from",
        _markdown((["table", "version"], [[name, version] for name, version in made_from.items()])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(rows: Rows) -> str:
    return markdown_table(*rows)


def _front_matter(study: Study, recipe: SelectionRecipe, origins: pl.DataFrame) -> str:
    licences = list(licence_counts(origins))
    single = _HUB_NAMES.get(licences[0]) if len(licences) == 1 else None
    named = [f"license: {single}"] if single else ["license: other", "license_name: mixed-see-card"]
    lines = ["---", f"pretty_name: {study.name} {recipe.name}", *named]
    return "\n".join([*lines, "configs:", "- config_name: default", "  data_files: data/*.parquet", "---"])


def _summary(selection: Selection, origins: pl.DataFrame) -> str:
    queries = selection.chosen.get_column("query_id").n_unique()
    tokens = int(selection.chosen.get_column("response_tokens").cast(pl.Int64).sum())
    sources = origins.get_column("source").n_unique()
    return (
        f"{selection.chosen.height:,} verified responses to {queries:,} queries from {sources:,} sources, {tokens:,} "
        "tokens. Every response passed its category's verifier, which does not make every one of them right: "
        "references can be wrong, and judges err."
    )


def _rules_in_words(recipe: SelectionRecipe) -> str:
    per_query = "every one" if recipe.responses_per_query is None else f"{recipe.responses_per_query}, drawn at random,"
    order = " Quotas are filled from the most uneven queries down." if recipe.order == "highest_variation" else ""
    return (
        f"Responses of {', '.join(recipe.distillers)}. A query counts as challenging when the scores of one "
        "distiller's passes vary more than the threshold (population standard deviation over mean); of its responses "
        f"above the score, {per_query} is kept.{order} With scores of 0 and 1 alone, variation is a function of the "
        f"pass rate. Seed {recipe.seed}."
    )


def _distiller_rows(study: Study, recipe: SelectionRecipe) -> Rows:
    rows = [
        [
            row.name,
            f"{row.model}@{row.revision}",
            _passes(row),
            f"{row.sampling.temperature:g} / {row.sampling.top_p:g} / {row.sampling.max_tokens:,}",
            "yes" if row.name in recipe.distillers else "for difficulty only",
            row.distiller_fingerprint,
        ]
        for row in study.distillers
    ]
    return ["distiller", "model", "passes", "temperature / top-p / tokens", "in this release", "fingerprint"], rows


def _passes(row: Distiller) -> object:
    policy = row.passes_policy
    return row.num_passes if policy is None else f"{policy.first} to {policy.most}, at most {row.num_passes} on average"


def _verifier_rows(study: Study, fingerprints: Mapping[str, str]) -> Rows:
    rows = []
    for row in study.verifiers:
        judge, rater = getattr(row, "judge", None), getattr(row, "reward_model", None)
        scorer = rater if judge is None else judge.scorer
        model = "none" if scorer is None else f"{scorer.model}@{scorer.revision}"
        rows.append([str(row.category), row.name, model, fingerprints.get(str(row.category), "-")])
    return ["category", "verifier", "judge", "fingerprint"], rows


def _second_opinions(second: pl.DataFrame) -> list[str]:
    """What a different verifier said about a draw of the rows; nothing where none was asked."""
    if second.is_empty():
        return []
    return [
        "## What a second verifier said",
        "A draw of the chosen rows was judged again by a different verifier. The share that it fails estimates how "
        "many passed wrongly; where the two differ, either may err.",
        _markdown(false_pass_rows(second)),
    ]


def _restrictions(study: Study, origins: pl.DataFrame) -> list[str]:
    """Sentences about licences that restrict use, and about accepted unknown ones."""
    licences = licence_counts(origins)
    restricted = [name for name in licences if "-NC" in name.upper() or "-ND" in name.upper()]
    said = [f"Rows under {', '.join(restricted)} may not be used commercially or not be changed."] if restricted else []
    present = set(origins.filter(pl.col("licence") == "unknown").get_column("source"))
    said += [
        f"Rows of {row.name}, whose licence is unknown, are included: {row.unknown_licence_accepted_because}"
        for row in study.sources
        if row.name in present and row.unknown_licence_accepted_because
    ]
    return said


def _changed_fields(changes: ReleaseDiff) -> list[str]:
    fields = changes.changed.group_by("field").len().sort("field")
    said = [f"`{name}` changed in {count:,} responses." for name, count in fields.iter_rows()]
    said += [f"`{name}` is a new field." for name in changes.added_fields]
    return said + [f"`{name}` is gone." for name in changes.removed_fields]
