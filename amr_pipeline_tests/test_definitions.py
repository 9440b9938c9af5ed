import json
import subprocess
import sys

import dagster as dg
import pytest

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.automation import JOBS
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.studies.deepdistill import STUDY as DEEPDISTILL
from amr_pipeline.studies.micro import STUDY as MICRO
from amr_pipeline.studies.study import Study

HEAVY = ("ray", "vllm", "torch", "transformers", "deepspeed", "mlflow")

GRAPH = {
    "raw_queries": set(),
    "benchmark_queries": set(),
    "near_duplicates": {"raw_queries", "benchmark_queries"},
    "queries": {"raw_queries", "benchmark_queries", "near_duplicates"},
    "dropped_queries": {"raw_queries", "benchmark_queries", "near_duplicates"},
    "responses": {"queries"},
    "frequent_ngrams": {"responses", "queries"},
    "response_quality": {"responses", "frequent_ngrams", "queries"},
    "verdicts": {"responses", "queries"},
    "audit": {"verdicts", "responses", "queries"},
    "difficulty": {"verdicts", "queries"},
    "difficulty_report": {"difficulty"},
    "subsets": {"difficulty", "verdicts", "response_quality", "queries"},
    "second_opinions": {"subsets", "responses", "queries"},
    "flip_report": {"verdicts", "difficulty", "subsets"},
    "cost_report": {
        *("responses", "response_quality", "verdicts", "subsets", "second_opinions"),
        *("checkpoints", "benchmark_responses", "benchmark_scores"),
    },
    "checkpoints": {"subsets"},
    "benchmark_responses": {"checkpoints", "benchmark_queries"},
    "benchmark_scores": {"benchmark_responses", "checkpoints", "benchmark_queries"},
    "sweep_report": {"benchmark_scores", "checkpoints"},
    "owed_report": {"release", "flip_report", "cost_report", "sweep_report"},
    "release": {
        *("subsets", "second_opinions", "responses", "queries", "verdicts", "difficulty", "response_quality"),
    },
}
"""The asset graph: what a reviewer reads first."""


def test_definitions_load_lightly():
    probe = (
        "import sys, time, json; begun = time.process_time(); import dagster; between = time.process_time();"
        "import amr_pipeline.definitions; seconds = [between - begun, time.process_time() - between];"
        f"print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    (of_dagster, of_ours), loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    assert of_ours < 3 * of_dagster, "about as long as Dagster itself, on whatever machine"


@pytest.mark.parametrize("study", [MICRO, DEEPDISTILL], ids=lambda study: study.name)
def test_the_graph_is_the_designs(study: Study):
    definitions = assemble(deployment_from_environment({}), study)
    graph = definitions.resolve_asset_graph()
    found = {
        node.key.to_user_string(): {parent.to_user_string() for parent in node.parent_keys}
        for node in graph.asset_nodes
    }
    assert found == GRAPH
    for node in graph.asset_nodes:
        if isinstance(node.partitions_def, dg.MultiPartitionsDefinition):
            assert all(
                len(dimension.partitions_def.get_partition_keys()) < 100
                for dimension in node.partitions_def.partitions_defs
            )


def test_jobs_and_the_re_grading_schedule_exist():
    definitions = assemble(deployment_from_environment({}), MICRO)
    repository = definitions.get_repository_def()
    assert set(JOBS) <= set(repository.job_names)
    assert repository.has_schedule_def("regrade")
    checks = {key.name for key in definitions.resolve_asset_graph().asset_check_keys}
    assert "the_budget_left_nothing_owed" in checks
    assert {"verdicts_matches_the_data_dictionary", "every_response_has_a_verdict", "in_is_out_plus_dropped"} <= checks
