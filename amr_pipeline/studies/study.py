"""The row types of a study: everything that decides something about the science.

A study is one Python file that builds a `Study` from frozen, keyword-only rows and reads like a paper's methods
section. Rows hold science only; addresses, credentials, worker counts are deployment (`assets/deployment.py`).
Fields marked `NOT_IDENTITY` say how something runs, not what it produces, and stay out of fingerprints.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from amr_pipeline.categories import Category
from amr_pipeline.fingerprint import IDENTITY_WHEN_SET, NOT_IDENTITY, fingerprint
from amr_pipeline.studies.contradictions import contradictions_of

# --------------------------------------------------------------------------------------------- where data come from


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """Rows that a function of `amr_pipeline.sources.generated` makes from a seed."""

    world: Literal["micro"]
    part: str
    num_rows: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonLines:
    """JSON-lines files, local or `s3://` (a glob is allowed).

    Attributes:
        records_at: the name of the list inside one JSON document, where the file is that instead.
        digest: identity of what it holds; None: what `load_study` finds there (`studies.file_contents`).
    """

    path: str
    records_at: str | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Parquet:
    """Parquet files, local or `s3://` (a glob is allowed); `digest` as in `JsonLines`."""

    path: str
    digest: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubDataset:
    """A data set on the Hugging Face hub; `revision` is a commit, never a branch, or None where none is known."""

    repository: str
    revision: str | None
    split: str = "train"
    name: str | None = None


Reads = Generated | JsonLines | Parquet | HubDataset


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryColumns:
    """Which column of a source means what. A dot descends into a record: `reward_model.ground_truth`.

    Attributes:
        question: the text of a single-turn query, or None when `messages` names a list of turns.
        messages: a list of {role, content}, the last one by the user.
        question_pattern: a regex whose first group is the question inside that column, or None for all of it.
        reference: the reference answer, or None where there is none.
        reference_pattern: a regex whose first group is the reference inside that column, or None for all of it.
        test_cases: code tests as JSON text or a list (see `verdicts/code_tests`).
        constraints: instruction constraints as JSON text or a list (IFEval ids and kwargs).
        category: column with the category, where a source mixes several.
        entry_point: column with a function name, for tests written as a `check(candidate)` program.
        test_program: column with such a program.
        constraint_ids, constraint_kwargs: the two lists, where a source keeps them apart.
    """

    question: str | None = "question"
    messages: str | None = None
    question_pattern: str | None = None
    reference: str | None = None
    reference_pattern: str | None = None
    test_cases: str | None = None
    constraints: str | None = None
    category: str | None = None
    entry_point: str | None = None
    test_program: str | None = None
    constraint_ids: str | None = None
    constraint_kwargs: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One public corpus, file or generated world that queries come from.

    Attributes:
        category: the category of all its rows, or None where `columns.category` names a column.
        licence: SPDX identifier, or "unknown", which blocks a release.
        drop: `column=value` pairs to leave out (AIME 2024 out of an AIME archive), as reasons with evidence.
        unknown_licence_accepted_because: why rows under licence "unknown" may be published all the same; the
            release card prints it. None: they block a release.
        constraint_ids_used: instruction constraints that its rows are known to ask for; an id without a rule fails the
            study when it loads. Generated sources are looked at by themselves.
    """

    name: str
    reads: Reads
    category: Category | None
    columns: QueryColumns
    licence: str
    drop: tuple[tuple[str, str], ...] = ()
    unknown_licence_accepted_because: str | None = field(default=None, metadata=NOT_IDENTITY)
    constraint_ids_used: tuple[str, ...] = field(default=(), metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 means no limit."""

    temperature: float
    top_p: float
    max_tokens: int
    top_k: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Held-out problems that measure a checkpoint and that no query may resemble.

    Attributes:
        num_samples: responses per problem; the score is their mean pass rate (pass@1).
        scored: False for a benchmark that queries are only decontaminated against.
        constraint_ids_used: as in `Source`.
    """

    name: str
    reads: Reads
    category: Category | None
    columns: QueryColumns
    num_samples: int
    sampling: Sampling
    licence: str
    scored: bool = True
    constraint_ids_used: tuple[str, ...] = field(default=(), metadata=NOT_IDENTITY)


# ----------------------------------------------------------------------------------------------------------- queries


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryRules:
    """What a query must satisfy (DeepDistill 2.2); None switches a rule off.

    Attributes:
        highest_non_ascii_ratio: share of non-ASCII characters, 0 to 1.
        drop_urls, drop_tables, drop_images: special content (2.2.1, Fig. 6).
        near_duplicate_similarity: Jaccard similarity of character shingles, estimated by MinHash, at or above which
            a query is represented by another.
        decontamination_ngram: words per n-gram.
        decontamination_overlap: share of a query's n-grams found in one benchmark item, above which it is removed.
        decontamination_similarity: cosine similarity of embeddings above which it is removed.
        embedding_model: what makes the embeddings; "hashed-char-ngrams" needs no weights.
    """

    highest_non_ascii_ratio: float | None = 0.3
    shortest_characters: int = 4
    longest_characters: int | None = None
    drop_incomplete: bool = True
    drop_urls: bool = True
    drop_tables: bool = True
    drop_images: bool = True
    near_duplicate_similarity: float | None = None
    decontamination_ngram: int = 13
    decontamination_overlap: float | None = 0.5
    decontamination_similarity: float | None = 0.9
    embedding_model: str = "hashed-char-ngrams"
    embedding_revision: str | None = None


# --------------------------------------------------------------------------------------------------------- responses


PROMPT_WORDING = 1
"""Version of what `responses.prompts.prompt_messages` makes of a query, which is part of every response's identity.

Whoever changes a prompt changes this, and pays for every response again; a test holds the two together.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSuffix:
    """Text appended to the last user turn of one category's queries."""

    category: Category
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseColumns:
    """Where stored responses are in a file (`engine="imported"`). Dots descend; a list column holds the passes.

    Attributes:
        response: the response text, or the list of them (position = pass index; null leaves its pass out).
        question: the column that joins a response to its query, by text; or `messages`, as in `QueryColumns`.
        question_pattern: as in `QueryColumns`.
        prefix, suffix: text around the stored one (a prompt that already opened `<think>`).
        prefix_column: a column whose text goes before the response (HumanEval stores bodies).
        fenced: wrap what results in a python code fence.
        finish_reason: column; without one every response counts as finished.
        pass_index: column with the 0-based pass (a list of them beside a list of responses). Without one, records of
            one query follow each other in the order of a hash of what they hold, never of where they stand.
        where: `column=value` pairs a row must have (one model's rows in a file of several).
    """

    response: str
    question: str | None = "question"
    messages: str | None = None
    question_pattern: str | None = None
    prefix: str = ""
    prefix_column: str | None = None
    suffix: str = ""
    fenced: bool = False
    finish_reason: str | None = None
    pass_index: str | None = None
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptivePasses:
    """Passes only where a query's tier is undecided, instead of `num_passes` for every query (`adaptive_passes`).

    A query stops once the Wilson interval of its pass rate lies above 5/8, below 3/8, or in between. What this saves is
    spent on undecided queries, so that all together come to `num_passes` on average at most.

    Attributes:
        first: passes that every query gets.
        step: further passes of a query per round.
        most: passes that no query exceeds.
        confidence: of the interval at each look; a query is looked at more than once, so that tiers are wrong more
            often than 1 - confidence says (`benchmarks/adaptive_passes.py` measures how often).
        unless_settled_by: cheaper distillers; a query whose tier over all of them together is settled is not asked.
            It then has no difficulty of its own under this distiller, and none of its responses.
    """

    first: int = 4
    step: int = 4
    most: int = 16
    confidence: float = 0.8
    unless_settled_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Distiller:
    """A model that writes responses.

    Attributes:
        model: hub id, or a folder relative to the study's package (`package:micro_weights/weak`).
        revision: commit of a hub model or `sha256:` digest of a folder (`fingerprint.files_digest`); pinned.
        num_passes: independent responses per query (DeepDistill 2.3: 4); with a policy their mean at most.
        passes_policy: None: every query gets `num_passes`.
        regeneration: a number, raised to have everything written anew; what was written before stays readable.
        engine: "vllm", "transformers", "http" for a server that knows `model` by that name (its address and key are
            deployment), or "imported" for responses that exist already (`reads`, `responses_at`).
        categories: the categories it answers; empty means all.
    """

    name: str
    model: str
    revision: str
    num_passes: int
    sampling: Sampling
    max_model_len: int
    engine: Literal["vllm", "transformers", "http", "imported"] = "vllm"
    system_prompt: str | None = None
    prompt_suffixes: tuple[PromptSuffix, ...] = ()
    categories: tuple[Category, ...] = ()
    reads: Reads | None = None
    responses_at: ResponseColumns | None = None
    dtype: str = "auto"
    passes_policy: AdaptivePasses | None = field(default=None, metadata=IDENTITY_WHEN_SET)
    regeneration: int | None = field(default=None, metadata=IDENTITY_WHEN_SET)
    tensor_parallel_size: int = field(default=1, metadata=NOT_IDENTITY)
    pipeline_parallel_size: int = field(default=1, metadata=NOT_IDENTITY)
    gpus_per_replica: float = field(default=1, metadata=NOT_IDENTITY)
    mean_response_tokens: float | None = field(default=None, metadata=NOT_IDENTITY)
    """Tokens a response is expected to have, for plans, and for the order in which adaptive distillers go on."""

    @property
    def most_passes(self) -> int:
        """Passes that a query can have; stored ones beyond it do not count."""
        return self.num_passes if self.passes_policy is None else self.passes_policy.most

    @property
    def declared_cost(self) -> float:
        """GPUs times tokens of one response, as far as the row says: what is cheap in comparison."""
        return self.gpus_per_replica * (self.mean_response_tokens or self.sampling.max_tokens)

    @property
    def distiller_fingerprint(self) -> str:
        """Identity of what it would write: model, revision, prompt, sampling and engine family, not its name."""
        return fingerprint(
            self.model,
            self.revision,
            self.sampling,
            self.max_model_len,
            self.engine,
            self.system_prompt,
            self.prompt_suffixes,
            self.dtype,
            self.reads,
            self.responses_at,
            # The first wording adds nothing, so that what was paid for before there was a version keeps its identity.
            *([PROMPT_WORDING] if PROMPT_WORDING > 1 else []),
            *([] if self.regeneration is None else [{"regeneration": self.regeneration}]),
        )

    def answers(self, category: Category) -> bool:
        """Whether this distiller is asked queries of `category`."""
        return not self.categories or category in self.categories


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A model that reads: perplexity of responses, or replies of a judge."""

    model: str
    revision: str
    max_model_len: int
    dtype: str = "auto"
    gpus_per_replica: float = field(default=1, metadata=NOT_IDENTITY)
    tensor_parallel_size: int = field(default=1, metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRules:
    """What a response must satisfy to enter a subset (DeepDistill 2.5); None switches a rule off.

    Attributes:
        perplexity_scorer: the model that reads query and response.
        highest_perplexity: above it a response is kept out of subsets.
        ngram_tokens, ngram_occurrences: strings of that many tokens seen more often than that count as templates.
    """

    perplexity_scorer: Scorer | None = None
    highest_perplexity: float | None = 20.0
    ngram_tokens: int | None = 20
    ngram_occurrences: int = 20
    require_think: bool = True
    require_answer: bool = True
    require_even_turns: bool = True


# ---------------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeModel:
    """A model asked for an opinion in a fixed grammar.

    Attributes:
        prompt: file stem in `verdicts/judge_prompts/`.
    """

    scorer: Scorer
    prompt: str
    max_tokens: int = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeCanary:
    """A case whose outcome a judge was measured to get right; it rides in every batch and stops a judge that drifts.

    Attributes:
        messages: (role, content) turns, the last one by the user.
        answer: what stands in the answer part.
        passes: whether it must come out as passed.
    """

    messages: tuple[tuple[str, str], ...]
    answer: str
    passes: bool
    reference: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MathVerifier:
    """Typed comparison, then Math-Verify, then (optionally) a judge on what stage one rejects (Eq. 1).

    Attributes:
        deadline_seconds: CPU seconds of the symbolic comparison of one answer; beyond them it is undecided (`timeout`).
    """

    category: Literal[Category.MATH] = Category.MATH
    name: str = "math_answers"
    relative_tolerance: float = 1e-6
    deadline_seconds: float = 10.0
    answer_patterns: tuple[str, ...] = ()
    """Regexes whose first group is the answer where nothing is boxed (`A: 18`); none: only a boxed answer counts."""
    judge: JudgeModel | None = None


class Isolation(StrEnum):
    """What stands between a hostile program and the machine, weakest first."""

    LANDLOCK_SECCOMP = "landlock+seccomp"
    BUBBLEWRAP_RLIMITS = "bubblewrap+rlimits"
    BUBBLEWRAP_SECCOMP = "bubblewrap+seccomp"
    BUBBLEWRAP_SECCOMP_CGROUP = "bubblewrap+seccomp+cgroup"

    def suffices(self, weakest: "Isolation") -> bool:
        """Whether this is at least as strong as `weakest`."""
        order = list(Isolation)
        return order.index(self) >= order.index(weakest)


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolicMathVerifier:
    """Math-Verify alone, no typed stage and no judge: another way to the same question, for second opinions."""

    category: Literal[Category.MATH] = Category.MATH
    name: str = "symbolic_answers"
    answer_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeVerifier:
    """Share of the first `num_tests` test cases that pass in the sandbox (Eq. 2).

    `weakest_isolation`: a machine that isolates less is refused before any program runs.
    """

    category: Literal[Category.CODE] = Category.CODE
    name: str = "code_tests"
    num_tests: int | None = 10
    cpu_seconds: float = 4.0
    memory_mebibytes: int = 512
    relative_tolerance: float = 1e-6
    weakest_isolation: Isolation = field(default=Isolation.LANDLOCK_SECCOMP, metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScienceVerifier:
    """Rule for option letters, otherwise a judge's similarity to the reference, 0 to 5.

    `rule_before_judge` settles equal numbers and texts without asking.
    """

    category: Literal[Category.SCIENCE] = Category.SCIENCE
    name: str = "science_similarity"
    rule_before_judge: bool = True
    judge: JudgeModel | None = None
    judge_canaries: tuple[JudgeCanary, ...] = field(default=(), metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionVerifier:
    """Mean over IFEval constraints of 0 or 1 (Eq. 3)."""

    category: Literal[Category.INSTRUCTION_FOLLOWING] = Category.INSTRUCTION_FOLLOWING
    name: str = "instruction_constraints"
    reading: Literal["strict", "loose"] = "strict"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationVerifier:
    """(coherence + correctness + helpfulness) / 12 from a reward model's heads, each 0 to 4 (Eq. 4).

    Attributes:
        reward_model: a sequence classifier that reports one number per head.
        judge: a model that writes its ratings as digits, in place of a reward model.
        heads: the order in which the model reports them; others than the three counted ones are kept as evidence.
    """

    category: Literal[Category.CONVERSATION] = Category.CONVERSATION
    name: str = "conversation_reward"
    reward_model: Scorer | None = None
    judge: JudgeModel | None = None
    heads: tuple[str, ...] = ("helpfulness", "correctness", "coherence")
    judge_canaries: tuple[JudgeCanary, ...] = field(default=(), metadata=NOT_IDENTITY)


VerifierRow = (
    MathVerifier | SymbolicMathVerifier | CodeVerifier | ScienceVerifier | InstructionVerifier | ConversationVerifier
)


# ----------------------------------------------------------------------------------------------------------- subsets


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryRule:
    """How one category is selected.

    Attributes:
        lowest_score: a kept response scores strictly more.
        cv_threshold: a query is challenging when its coefficient of variation is strictly greater.
        easy_keep_probability: chance that a query at or below it is kept all the same.
        quota: at most this many responses, highest variation first; None: all.
    """

    category: Category
    lowest_score: float
    cv_threshold: float
    easy_keep_probability: float = 0.0
    quota: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionRecipe:
    """Which responses one subset contains (DeepDistill 3.2, Algorithm 1 and the annealing set).

    Attributes:
        distillers: whose responses are selected; difficulty of a query is judged on each distiller's own passes.
        responses_per_query: None keeps every passing one; a number draws that many at random.
        order: "any", or "highest_variation" to fill quotas from the most uneven queries down.
    """

    name: str
    distillers: tuple[str, ...]
    rules: tuple[CategoryRule, ...]
    seed: int
    responses_per_query: int | None = None
    order: Literal["any", "highest_variation"] = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondOpinion:
    """A different verifier that judges rows of a subset again, to estimate how many passed wrongly.

    Attributes:
        recipe: name of the selection recipe whose rows are judged again.
        verifier: who judges; rows of its category are drawn.
        num_responses: at most this many, drawn by a hash of their ids.
    """

    recipe: str
    verifier: VerifierRow
    num_responses: int
    seed: int


# ---------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe:
    """One supervised fine-tuning run (DeepDistill 4.1).

    Attributes:
        starts_from, continues: `model@revision` folder or hub id, or a training recipe (Stage II); the other is None.
        sweep: runs that differ in one thing share this name; None for a run of its own.
        sequence_tokens, batch_rows: length of a packed row, the longest example kept; rows per step over all workers.
        gpus_per_worker: 0 trains on CPU, and so does 1 where a private Ray cluster has no GPU.
        warmup_ratio: share of the steps with a linearly rising rate; cosine to zero follows.
        benchmarks: names; empty means every scored benchmark of the study.
        evaluation_context_tokens: prompt and response together when the checkpoint is measured.
    """

    name: str
    subset: str
    starts_from: str | None
    revision: str | None
    learning_rate: float
    epochs: int
    sequence_tokens: int
    batch_rows: int
    seed: int
    packing: bool = True
    continues: str | None = None
    sweep: str | None = None
    warmup_ratio: float = 0.05
    adam_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["fp32", "bf16"] = "bf16"
    benchmarks: tuple[str, ...] = ()
    system_prompt: str | None = None
    prompt_suffixes: tuple[PromptSuffix, ...] = ()
    evaluation_context_tokens: int = 32_768
    micro_batch_rows: int = field(default=1, metadata=NOT_IDENTITY)
    num_workers: int = field(default=1, metadata=NOT_IDENTITY)
    gpus_per_worker: Literal[0, 1] = field(default=1, metadata=NOT_IDENTITY)


# ------------------------------------------------------------------------------------------------------------- study


class StudyError(ValueError):
    """The rows of a study contradict each other; the message names the row and what to change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """All the rows of one piece of research.

    Raises:
        StudyError: names repeat, a row refers to one that does not exist, or a number is out of range; raised when
            the study is built, before anything expensive starts.
    """

    name: str
    title: str
    num_shards: int
    sources: tuple[Source, ...]
    benchmarks: tuple[Benchmark, ...]
    query_rules: QueryRules
    distillers: tuple[Distiller, ...]
    quality_rules: QualityRules
    verifiers: tuple[VerifierRow, ...]
    selection_recipes: tuple[SelectionRecipe, ...]
    training_recipes: tuple[TrainingRecipe, ...]
    second_opinions: tuple[SecondOpinion, ...] = ()
    expected_queries: tuple[tuple[Category, int], ...] = ()
    """Queries to count on by category once filters have run, for plans."""

    def __post_init__(self) -> None:
        problems = list(contradictions_of(self))
        if problems:
            raise StudyError(f"study {self.name!r}: " + "; ".join(problems))

    def distiller(self, name: str) -> Distiller:
        """The distiller row called `name`."""
        return {row.name: row for row in self.distillers}[name]

    def verifier(self, category: Category) -> VerifierRow | None:
        """The verifier row of a category, or None when the study has none."""
        return {row.category: row for row in self.verifiers}.get(category)

    def selection_recipe(self, name: str) -> SelectionRecipe:
        """The selection recipe called `name`."""
        return {row.name: row for row in self.selection_recipes}[name]

    def training_recipe(self, name: str) -> TrainingRecipe:
        """The training recipe called `name`."""
        return {row.name: row for row in self.training_recipes}[name]

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark called `name`."""
        return {row.name: row for row in self.benchmarks}[name]

    @property
    def shards(self) -> tuple[str, ...]:
        """Shard keys in order, two hex digits each: `00`, `01`, ..."""
        return tuple(f"{index:02x}" for index in range(self.num_shards))
