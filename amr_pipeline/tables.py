"""The data dictionary: every column once, every table's grain and key.

Schemas, asset checks and the README's dictionary are generated from here, so a column that is not listed here
cannot be written, and one that is listed means the same in every table that holds it.

Belongs here: names, types, units, meaning, what null means. Does not belong here: how a value is computed.
"""

from dataclasses import dataclass

import polars as pl

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
"""Turns of a conversation, oldest first; the last one is the user's."""


class TableMismatchError(ValueError):
    """A frame does not have the columns, types or keys its table promises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column.

    Attributes:
        meaning: what a value says, with its unit.
        null: what null means, or None when the column is never null.
        lowest, highest: inclusive range of a number, or None where it is open.
        values: the closed set of values of a string column.
    """

    name: str
    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    null: str | None = None
    lowest: float | None = None
    highest: float | None = None
    values: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table: what a row is, which columns identify it, and all its columns in order."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pl.Schema:
        """Column names and polars types, in order."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def empty(self) -> pl.DataFrame:
        """A frame with this table's schema and no rows."""
        return pl.DataFrame(schema=self.schema)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` with exactly this table's columns, in order and type.

        Raises:
            TableMismatchError: a column is missing or superfluous, or cannot be cast without loss.
        """
        missing = [name for name in self.schema if name not in frame.columns]
        superfluous = [name for name in frame.columns if name not in self.schema]
        if missing or superfluous:
            raise TableMismatchError(f"{self.name}: missing columns {missing}, superfluous columns {superfluous}")
        # A cast from float to integer cuts fractions off without a word, so they are looked for first.
        cut = [
            name
            for name, dtype in self.schema.items()
            if dtype.is_integer() and frame.schema[name].is_float() and bool((frame[name] % 1 != 0).any())
        ]
        if cut:
            raise TableMismatchError(f"{self.name}: columns {cut} hold fractions; wanted whole numbers")
        try:
            return frame.select(pl.col(name).cast(dtype) for name, dtype in self.schema.items())
        except pl.exceptions.InvalidOperationError as error:
            raise TableMismatchError(f"{self.name}: {error}") from error

    def violations(self, frame: pl.DataFrame) -> dict[str, int]:
        """Rows that break a promise, counted by promise; empty when all hold.

        Promises checked: key unique, no null where none may be, numbers finite and in range, strings in the
        closed set.
        """
        counts: dict[str, int] = {"repeated key": frame.height - frame.select(self.key).unique().height}
        for column in self.columns:
            values = frame.get_column(column.name)
            if column.null is None:
                counts[f"null {column.name}"] = values.null_count()
            if values.dtype.is_float():
                counts[f"{column.name} not finite"] = int((~values.is_finite()).sum())
            if column.lowest is not None:
                counts[f"{column.name} < {column.lowest}"] = int((values < column.lowest).sum())
            if column.highest is not None:
                counts[f"{column.name} > {column.highest}"] = int((values > column.highest).sum())
            if column.values is not None:
                counts[f"{column.name} outside its values"] = int(
                    (~values.drop_nulls().is_in(list(column.values))).sum()
                )
        return {promise: count for promise, count in counts.items() if count}


CATEGORIES = ("math", "code", "science", "instruction_following", "conversation")
OUTCOMES = ("passed", "failed", "undecided")
CAUSES = (
    *("timeout", "crashed", "sandbox_unavailable", "judge_unavailable", "judge_unparsed", "judge_inconsistent"),
    *("too_complex", "no_reference", "no_response", "unsupported", "malformed"),
)
FINISH_REASONS = ("stop", "length", "looping", "error")
TIERS = ("trivial", "easy", "medium", "hard", "unsolved", "undecided")

# ------------------------------------------------------------------------------------- columns, each with one meaning

QUERY_ID = Column(
    name="query_id",
    dtype=pl.String,
    meaning="hash of the query's normalized turns; the same text has the same id in every source",
)
SHARD = Column(
    name="shard", dtype=pl.String, meaning="leading bits of query_id as two hex digits; decides the partition"
)
CATEGORY = Column(name="category", dtype=pl.String, meaning="kind of problem; decides the verifier", values=CATEGORIES)
MESSAGES_COLUMN = Column(
    name="messages", dtype=MESSAGES, meaning="turns {role, content}, oldest first, last by the user"
)
SOURCE = Column(name="source", dtype=pl.String, meaning="row name of the source")
SOURCE_ROW = Column(
    name="source_row", dtype=pl.String, meaning="where in the source the row stands; for people, never an identity"
)
LICENCE = Column(name="licence", dtype=pl.String, meaning="SPDX identifier of the source's licence, or 'unknown'")
REFERENCE = Column(name="reference", dtype=pl.String, meaning="reference answer", null="the source gives none")
TEST_CASES = Column(
    name="test_cases",
    dtype=pl.String,
    meaning="JSON of code tests: call_type assert | std | program, and its lists",
    null="not a code query, or no tests",
)
CONSTRAINTS = Column(
    name="constraints",
    dtype=pl.String,
    meaning="JSON list of {id, kwargs} in IFEval's names",
    null="not an instruction query, or none",
)
REASON = Column(name="reason", dtype=pl.String, meaning="why the row was dropped")
EVIDENCE = Column(
    name="evidence", dtype=pl.String, meaning="what a person needs to agree or disagree, at most 2,000 characters"
)
BENCHMARK = Column(name="benchmark", dtype=pl.String, meaning="row name of the benchmark")
RESPONSE_ID = Column(
    name="response_id",
    dtype=pl.String,
    meaning="hash of query_id, pass_index and what wrote it: distiller_fingerprint, or a checkpoint's digest, prompt "
    "and sampling",
)
DISTILLER = Column(name="distiller", dtype=pl.String, meaning="row name of the distiller")
DISTILLER_FINGERPRINT = Column(
    name="distiller_fingerprint", dtype=pl.String, meaning="hash of model, revision, prompt, sampling and engine family"
)
PASS_INDEX = Column(name="pass_index", dtype=pl.Int32, meaning="which of the independent passes, from 0", lowest=0)
SEED = Column(
    name="seed",
    dtype=pl.Int64,
    meaning="sampling seed, derived from response_id; of a checkpoint's responses from query_id and pass_index",
    null="the response was imported, its seed is not known",
    lowest=0,
)
TEXT = Column(name="text", dtype=pl.String, meaning="what the distiller wrote, unchanged (lone surrogates replaced)")
FINISH_REASON = Column(
    name="finish_reason",
    dtype=pl.String,
    meaning="why it stopped: end token, budget, loop, or engine error",
    values=FINISH_REASONS,
)
PROMPT_TOKENS = Column(
    name="prompt_tokens",
    dtype=pl.Int32,
    meaning="tokens of the prompt, distiller's tokenizer",
    null="imported: not known",
    lowest=0,
)
RESPONSE_TOKENS = Column(
    name="response_tokens",
    dtype=pl.Int32,
    meaning="tokens of the response, distiller's tokenizer (imported: words)",
    lowest=0,
)
ENGINE = Column(
    name="engine",
    dtype=pl.String,
    meaning="engine and version that wrote it; where seeds are drawn here, how, as 'vllm 0.29.0, draws 1'",
)
ATTEMPTS = Column(
    name="attempts",
    dtype=pl.Int32,
    meaning="times it was asked in the run that brought it, until it was answered or set aside",
    null="nobody counted: it was imported, or there was no count yet",
    lowest=1,
)
LAST_FAILURE = Column(
    name="last_failure", dtype=pl.String, meaning="why the last attempt in vain failed", null="none did"
)
PERPLEXITY = Column(
    name="perplexity",
    dtype=pl.Float64,
    meaning="exp of the mean negative log likelihood per token of query and response under the scorer",
    null="no scorer in the study, or it could not read the text, which then is not fit for subsets",
    lowest=1.0,
)
THINK_TOKENS = Column(
    name="think_characters",
    dtype=pl.Int32,
    meaning="characters of think content",
    null="the response has no complete think content",
    lowest=0,
)
ANSWER_CHARACTERS = Column(
    name="answer_characters",
    dtype=pl.Int32,
    meaning="characters of answer content",
    null="the response has no answer content",
    lowest=0,
)
NUM_FREQUENT_NGRAMS = Column(
    name="num_frequent_ngrams", dtype=pl.Int32, meaning="corpus-wide frequent n-grams inside this response", lowest=0
)
QUALITY_REASON = Column(
    name="quality_reason",
    dtype=pl.String,
    meaning="first quality rule it breaks",
    null="it breaks none and may enter a subset",
)
VERIFY_SCORE = Column(
    name="verify_score",
    dtype=pl.Float64,
    meaning="score in the category's range (science 0 to 5, others 0 to 1)",
    null="undecided",
    lowest=0.0,
    highest=5.0,
)
OUTCOME = Column(name="verdict", dtype=pl.String, meaning="passed, failed or undecided", values=OUTCOMES)
CAUSE = Column(
    name="cause", dtype=pl.String, meaning="why the verdict is undecided", null="it is decided", values=CAUSES
)
VERIFIER = Column(
    name="verifier", dtype=pl.String, meaning="name of the verifier, and after a slash the stage that decided"
)
VERIFIER_FINGERPRINT = Column(
    name="verifier_fingerprint", dtype=pl.String, meaning="hash of the verifier's row, prompt, and code"
)
N = Column(name="num_responses", dtype=pl.Int32, meaning="decided responses: the denominator", lowest=0)
NUM_PASSED = Column(name="num_passed", dtype=pl.Int32, meaning="responses that passed", lowest=0)
NUM_UNDECIDED = Column(
    name="num_undecided", dtype=pl.Int32, meaning="responses without a decision, in no denominator", lowest=0
)
PASS_RATE = Column(
    name="pass_rate",
    dtype=pl.Float64,
    meaning="num_passed / num_responses (Eq. 5)",
    null="nothing is decided",
    lowest=0.0,
    highest=1.0,
)
PASS_RATE_LOW = Column(
    name="pass_rate_low",
    dtype=pl.Float64,
    meaning="lower end of the 95 % Wilson interval",
    null="nothing is decided",
    lowest=0.0,
    highest=1.0,
)
PASS_RATE_HIGH = Column(
    name="pass_rate_high",
    dtype=pl.Float64,
    meaning="upper end of the 95 % Wilson interval",
    null="nothing is decided",
    lowest=0.0,
    highest=1.0,
)
MEAN_SCORE = Column(
    name="mean_score",
    dtype=pl.Float64,
    meaning="mean verify_score, category's range",
    null="nothing is decided",
    lowest=0.0,
    highest=5.0,
)
HIGHEST_SCORE = Column(
    name="highest_score",
    dtype=pl.Float64,
    meaning="largest verify_score, category's range",
    null="nothing is decided",
    lowest=0.0,
    highest=5.0,
)
CV = Column(
    name="coefficient_of_variation",
    dtype=pl.Float64,
    meaning="population standard deviation over mean of verify_score (Eq. 6); a function of pass_rate at 0/1 scores",
    null="the mean is 0 or nothing is decided",
    lowest=0.0,
)
TIER = Column(
    name="tier",
    dtype=pl.String,
    meaning="difficulty by pass_rate: 1 trivial, above 5/8 easy, 3/8 to 5/8 medium, above 0 hard, 0 unsolved",
    values=TIERS,
)
RECIPE = Column(name="selection_recipe", dtype=pl.String, meaning="row name of the selection recipe")
CHOSEN_BECAUSE = Column(name="chosen_because", dtype=pl.String, meaning="'challenging' or 'easy, kept by chance'")
TRAINING_RECIPE = Column(name="training_recipe", dtype=pl.String, meaning="row name of the training recipe")
QUESTION = Column(name="question", dtype=pl.String, meaning="the turns as one text")
CHECKPOINT_DIGEST = Column(name="digest", dtype=pl.String, meaning="sha256 over the checkpoint's files")
PART_PATH = Column(name="path", dtype=pl.String, meaning="address relative to the storage root")

# ------------------------------------------------------------------------------------------------------------- tables

_CONTENT = (REFERENCE, TEST_CASES, CONSTRAINTS)

RAW_QUERIES = Table(
    name="raw_queries",
    grain="row of a source, mapped to this project's columns",
    key=("source", "source_row"),
    columns=(SOURCE, SOURCE_ROW, QUERY_ID, SHARD, CATEGORY, MESSAGES_COLUMN, *_CONTENT, LICENCE),
)
UNREADABLE_ROWS = Table(
    name="unreadable_rows",
    grain="row of a source that cannot be mapped to a query",
    key=("source", "source_row"),
    columns=(SOURCE, SOURCE_ROW, REASON, EVIDENCE),
)
BENCHMARK_QUERIES = Table(
    name="benchmark_queries",
    grain="problem of a benchmark",
    key=("benchmark", "query_id"),
    columns=(BENCHMARK, QUERY_ID, SOURCE_ROW, CATEGORY, MESSAGES_COLUMN, *_CONTENT, LICENCE),
)
NEAR_DUPLICATES = Table(
    name="near_duplicates",
    grain="query that another one stands for",
    key=("query_id",),
    columns=(
        QUERY_ID,
        Column(name="stands_for_it", dtype=pl.String, meaning="query_id that is kept in its place"),
        Column(
            name="similarity",
            dtype=pl.Float64,
            meaning="estimated Jaccard similarity of the two",
            lowest=0.0,
            highest=1.0,
        ),
    ),
)
QUERIES = Table(
    name="queries",
    grain="query that every filter let through",
    key=("query_id",),
    columns=(QUERY_ID, SHARD, CATEGORY, MESSAGES_COLUMN, *_CONTENT, SOURCE, SOURCE_ROW, LICENCE),
)
DROPPED_QUERIES = Table(
    name="dropped_queries",
    grain="source row that a filter rejected",
    key=("source", "source_row"),
    columns=(
        SOURCE,
        SOURCE_ROW,
        QUERY_ID,
        SHARD,
        CATEGORY,
        REASON,
        EVIDENCE,
        QUESTION,
    ),
)
RESPONSES = Table(
    name="responses",
    grain="query, distiller, pass",
    key=("response_id",),
    columns=(
        RESPONSE_ID,
        QUERY_ID,
        CATEGORY,
        DISTILLER,
        DISTILLER_FINGERPRINT,
        PASS_INDEX,
        SEED,
        *(TEXT, FINISH_REASON, PROMPT_TOKENS, RESPONSE_TOKENS, ENGINE, ATTEMPTS, LAST_FAILURE),
    ),
)
FREQUENT_NGRAMS = Table(
    name="frequent_ngrams",
    grain="n-gram of response tokens that occurs too often",
    key=("ngram_hash",),
    columns=(
        Column(name="ngram_hash", dtype=pl.UInt64, meaning="hash of the n-gram"),
        Column(name="ngram", dtype=pl.String, meaning="the n-gram, tokens joined by one space"),
        Column(name="occurrences", dtype=pl.Int64, meaning="times it occurs in all responses", lowest=1),
    ),
)
RESPONSE_QUALITY = Table(
    name="response_quality",
    grain="response",
    key=("response_id",),
    columns=(
        RESPONSE_ID,
        QUERY_ID,
        CATEGORY,
        DISTILLER,
        PASS_INDEX,
        FINISH_REASON,
        RESPONSE_TOKENS,
        THINK_TOKENS,
        ANSWER_CHARACTERS,
        PERPLEXITY,
        NUM_FREQUENT_NGRAMS,
        QUALITY_REASON,
    ),
)
VERDICTS = Table(
    name="verdicts",
    grain="response x verifier fingerprint",
    key=("response_id", "verifier_fingerprint"),
    columns=(
        RESPONSE_ID,
        QUERY_ID,
        CATEGORY,
        DISTILLER,
        DISTILLER_FINGERPRINT,
        PASS_INDEX,
        OUTCOME,
        VERIFY_SCORE,
        CAUSE,
        VERIFIER,
        VERIFIER_FINGERPRINT,
        EVIDENCE,
    ),
)
DIFFICULTY = Table(
    name="difficulty",
    grain="query, distiller; and the joint row over distillers, named 'joint'",
    key=("query_id", "distiller"),
    columns=(
        QUERY_ID,
        SHARD,
        CATEGORY,
        DISTILLER,
        N,
        NUM_PASSED,
        NUM_UNDECIDED,
        PASS_RATE,
        PASS_RATE_LOW,
        PASS_RATE_HIGH,
        MEAN_SCORE,
        HIGHEST_SCORE,
        CV,
        TIER,
    ),
)
AUDIT = Table(
    name="audit",
    grain="response drawn for a person to judge, a few per category, verdict and verifier stage",
    key=("response_id",),
    columns=(
        RESPONSE_ID,
        QUERY_ID,
        CATEGORY,
        DISTILLER,
        PASS_INDEX,
        QUESTION,
        Column(name="response_end", dtype=pl.String, meaning="the last 2,000 characters of the response"),
        FINISH_REASON,
        *_CONTENT,
        OUTCOME,
        VERIFY_SCORE,
        CAUSE,
        VERIFIER,
        VERIFIER_FINGERPRINT,
        EVIDENCE,
        Column(
            name="stratum_responses",
            dtype=pl.Int64,
            meaning="responses of the same category, verdict and verifier stage",
            lowest=1,
        ),
    ),
)
HUMAN_VERDICTS = Table(
    name="human_verdicts",
    grain="response that a person judged (`amr audit-import`)",
    key=("response_id",),
    columns=(
        RESPONSE_ID,
        Column(name="human_verdict", dtype=pl.String, meaning="what the person says", values=("passed", "failed")),
        Column(name="note", dtype=pl.String, meaning="why, in the person's words", null="no reason was given"),
    ),
)
SUBSETS = Table(
    name="subsets",
    grain="response that a selection recipe chose",
    key=("selection_recipe", "response_id"),
    columns=(
        RECIPE,
        RESPONSE_ID,
        QUERY_ID,
        SHARD,
        CATEGORY,
        DISTILLER,
        PASS_INDEX,
        VERIFY_SCORE,
        PASS_RATE,
        CV,
        RESPONSE_TOKENS,
        CHOSEN_BECAUSE,
    ),
)
SECOND_OPINIONS = Table(
    name="second_opinions",
    grain="chosen response that a different verifier judged again",
    key=("selection_recipe", "response_id", "verifier_fingerprint"),
    columns=(
        RECIPE,
        RESPONSE_ID,
        QUERY_ID,
        CATEGORY,
        DISTILLER,
        PASS_INDEX,
        OUTCOME,
        VERIFY_SCORE,
        CAUSE,
        VERIFIER,
        VERIFIER_FINGERPRINT,
        EVIDENCE,
    ),
)
CHECKPOINTS = Table(
    name="checkpoints",
    grain="training run",
    key=("training_recipe",),
    columns=(
        TRAINING_RECIPE,
        PART_PATH,
        CHECKPOINT_DIGEST,
        Column(
            name="subset_version", dtype=pl.Int64, meaning="commit version of the subset it was trained on", lowest=1
        ),
        Column(name="subset_digest", dtype=pl.String, meaning="digest of that commit"),
        Column(name="num_examples", dtype=pl.Int64, meaning="examples trained on", lowest=0),
        Column(name="num_dropped", dtype=pl.Int64, meaning="examples longer than a row, left out", lowest=0),
        Column(name="num_steps", dtype=pl.Int64, meaning="optimizer steps", lowest=0),
        Column(name="trained_tokens", dtype=pl.Int64, meaning="tokens that counted in the loss", lowest=0),
        Column(
            name="first_loss", dtype=pl.Float64, meaning="mean loss of the first tenth of the steps, nats per token"
        ),
        Column(
            name="last_loss",
            dtype=pl.Float64,
            meaning="mean loss of the last tenth of the steps, nats per token",
            null="the run diverged",
        ),
        Column(
            name="resumed_from_step",
            dtype=pl.Int64,
            meaning="step it went on from",
            null="it ran through at once",
            lowest=0,
        ),
        Column(name="mlflow_run_id", dtype=pl.String, meaning="run in MLflow"),
    ),
)
BENCHMARK_RESPONSES = Table(
    name="benchmark_responses",
    grain="benchmark problem, pass, of one training run's checkpoint",
    key=("response_id",),
    columns=(
        RESPONSE_ID,
        TRAINING_RECIPE,
        CHECKPOINT_DIGEST,
        BENCHMARK,
        QUERY_ID,
        CATEGORY,
        PASS_INDEX,
        SEED,
        TEXT,
        FINISH_REASON,
        PROMPT_TOKENS,
        RESPONSE_TOKENS,
        ENGINE,
    ),
)
BENCHMARK_SCORES = Table(
    name="benchmark_scores",
    grain="benchmark problem x pass, of one training run",
    key=("training_recipe", "benchmark", "query_id", "pass_index"),
    columns=(
        TRAINING_RECIPE,
        BENCHMARK,
        QUERY_ID,
        CATEGORY,
        PASS_INDEX,
        RESPONSE_ID,
        FINISH_REASON,
        RESPONSE_TOKENS,
        OUTCOME,
        VERIFY_SCORE,
        CAUSE,
    ),
)
RELEASE = Table(
    name="release",
    grain="released file",
    key=("selection_recipe", "path"),
    columns=(
        RECIPE,
        PART_PATH,
        Column(name="num_rows", dtype=pl.Int64, meaning="rows in the file, 0 for text", lowest=0),
        Column(name="num_bytes", dtype=pl.Int64, meaning="size of the file in bytes", lowest=0),
        Column(name="sha256", dtype=pl.String, meaning="hex sha256 of the file"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        RAW_QUERIES,
        UNREADABLE_ROWS,
        BENCHMARK_QUERIES,
        NEAR_DUPLICATES,
        QUERIES,
        DROPPED_QUERIES,
        RESPONSES,
        FREQUENT_NGRAMS,
        RESPONSE_QUALITY,
        VERDICTS,
        AUDIT,
        HUMAN_VERDICTS,
        DIFFICULTY,
        SUBSETS,
        SECOND_OPINIONS,
        CHECKPOINTS,
        BENCHMARK_RESPONSES,
        BENCHMARK_SCORES,
        RELEASE,
    )
}
"""Every table by name, in the order of the pipeline."""
