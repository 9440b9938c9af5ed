"""Which instruction constraints a study asks for, and whether there is a rule for each.

An unknown constraint fails the study when it loads, by name, before anything is generated: otherwise every response
to its queries would be paid for and end undecided. What a study asks for is what its generated sources hold and what
its other sources declare (`Source.constraint_ids_used`); files are not opened for this. A foreign record with an
unknown constraint stays one undecided line (`amr verify`).

Belongs here: the question whether a study's constraints are known. Does not belong here: rules, judging a response.
"""

import json
from collections.abc import Iterable, Iterator
from functools import cache

from amr_pipeline.categories import Category
from amr_pipeline.sources.generated_parts import records
from amr_pipeline.studies.study import Benchmark, Generated, Source, Study, StudyError
from amr_pipeline.verdicts.instruction_constraints import unsupported_constraints


def require_known_constraints(study: Study) -> Study:
    """The study itself, when there is a rule for every constraint that it is known to ask for.

    Raises:
        StudyError: a source or benchmark asks for a constraint without a rule; every such id is named.
    """
    if study.verifier(Category.INSTRUCTION_FOLLOWING) is None:
        return study
    if problems := list(_unknown(study)):
        raise StudyError(
            f"study {study.name!r}: {'; '.join(problems)}; add the rule to verdicts/extra_constraint_rules.py, or "
            "leave the constraint out"
        )
    return study


def _unknown(study: Study) -> Iterator[str]:
    rows: Iterable[Source | Benchmark] = (*study.sources, *study.benchmarks)
    for row in rows:
        # Rows of another category have none, and every process that loads the study would generate them for nothing.
        may_ask = isinstance(row.reads, Generated) and row.category in (None, Category.INSTRUCTION_FOLLOWING)
        generated = _generated(row.reads) if may_ask else frozenset()
        if unknown := unsupported_constraints({*row.constraint_ids_used, *generated}):
            kind = "source" if isinstance(row, Source) else "benchmark"
            yield f"{kind} {row.name!r} asks for {', '.join(unknown)}, for which there is no rule"


@cache
def _generated(reads: Generated) -> frozenset[str]:
    """Ids of the constraints in the rows that a generated source holds."""
    found = [
        json.loads(str(row["constraints"]))
        for row in records(reads.part, reads.num_rows, reads.seed)
        if row["constraints"]
    ]
    return frozenset(str(constraint["id"]) for constraints in found for constraint in constraints)
