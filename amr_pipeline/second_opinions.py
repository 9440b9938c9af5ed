"""Second opinions: how many rows of a subset a different verifier would have failed.

Subsets of high variation collect verifier errors: a query nobody solves looks solved once in four passes when its
verifier lets a wrong answer through, and one in four is the top of the order. So a study may name, per recipe, another
verifier that judges chosen rows again. It decides nothing; it measures.

The estimated false-pass rate is the share of re-judged rows that the second verifier fails. Where the two differ
either may err, so it is an estimate from above as far as the second verifier is the stricter one. Rows it cannot
decide are in no denominator.

Belongs here: which rows are drawn, and the rates. Does not belong here: judging (`verdicts`), storing (`assets`).
Source: design, verdicts and subsets. Ours: the paper judges once.
"""

import polars as pl

from amr_pipeline.difficulty import wilson_high, wilson_low
from amr_pipeline.studies.study import SecondOpinion
from amr_pipeline.subsets import draw


def drawn(subset: pl.DataFrame, opinion: SecondOpinion) -> pl.DataFrame:
    """The `tables.SUBSETS` rows to judge again: of the verifier's category, at most `num_responses`, by a hash of ids.

    Equal rows draw equally in any order and any company; a subset that grows keeps most of what was drawn before.
    """
    mine = subset.filter(pl.col("category") == str(opinion.verifier.category))
    order = draw("response_id", opinion.seed, "second opinion")
    return mine.sort(order, "response_id").head(opinion.num_responses)


def false_pass_rates(opinions: pl.DataFrame, subset: pl.DataFrame) -> pl.DataFrame:
    """Estimated false-pass rate of a subset, one row per (selection_recipe, category, verifier_fingerprint).

    Args:
        opinions: `tables.SECOND_OPINIONS` rows.
        subset: `tables.SUBSETS` rows of the same recipes.

    Returns:
        `second_verifier` (its row name), num_chosen (rows of the subset in that category), num_judged (decided),
        num_rejected, num_undecided, false_pass_rate with false_pass_rate_low and _high (95 % Wilson interval, 0 to 1;
        null: nothing was decided). The interval is of the draw, not of the second verifier's own errors.
    """
    key = ["selection_recipe", "category"]
    chosen = subset.group_by(key).agg(pl.len().cast(pl.Int64).alias("num_chosen"))
    counted = opinions.group_by(*key, "verifier_fingerprint").agg(
        pl.col("verifier").str.split("/").list.first().first().alias("second_verifier"),
        (pl.col("verdict") != "undecided").sum().cast(pl.Int64).alias("num_judged"),
        (pl.col("verdict") == "failed").sum().cast(pl.Int64).alias("num_rejected"),
        (pl.col("verdict") == "undecided").sum().cast(pl.Int64).alias("num_undecided"),
    )
    rates = counted.join(chosen, on=key, how="left").with_columns(
        pl.when(pl.col("num_judged") > 0).then(pl.col("num_rejected") / pl.col("num_judged")).alias("false_pass_rate"),
        wilson_low("num_rejected", "num_judged").alias("false_pass_rate_low"),
        wilson_high("num_rejected", "num_judged").alias("false_pass_rate_high"),
        pl.col("num_chosen").fill_null(0),
    )
    return rates.select(
        *key, "second_verifier", "verifier_fingerprint", "num_chosen", "num_judged", "num_rejected", "num_undecided",
        "false_pass_rate", "false_pass_rate_low", "false_pass_rate_high",
    ).sort(*key, "verifier_fingerprint")  # fmt: skip
