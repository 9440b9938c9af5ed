"""The graph: what each product is, its partitions and its upstreams. The only files that know Dagster.

    raw_queries (source) -> near_duplicates -> queries + dropped_queries (shard) <- benchmark_queries (benchmark)
    queries -> responses (distiller x shard) -> frequent_ngrams -> response_quality (distiller x shard)
    responses -> verdicts (distiller x shard) -> difficulty (shard) -> subsets (selection recipe) -> release
    subsets -> checkpoints -> benchmark_responses -> benchmark_scores (training recipe each) -> sweep_report
    verdicts -> audit, difficulty -> difficulty_report, subsets -> second_opinions, and of all three -> flip_report
    what models worked for (responses to benchmark_scores) -> cost_report; last of all, from commit records: owed_report

Each chapter's file has one `build` function that closes over the study. `partitions`, `lineage` and `publication`
say what a partition is, what it depends on and how it is committed; `deployment` reads the
environment, and `resources` is the door to engines; `materialization` runs what is owed without the UI.
"""
