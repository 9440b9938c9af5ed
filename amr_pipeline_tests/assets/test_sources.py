"""Sources on the deployment's own object store are read from there, and a store that is away costs its sources only."""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import s3fs

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import Deployment, deployment_from_environment, study_of
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.imported_responses import imported_responses, stored_responses
from amr_pipeline.sources.records import read_queries
from amr_pipeline.studies.file_contents import UNREACHED, UnreachedFilesError
from amr_pipeline.studies.study import JsonLines, Parquet, QueryColumns, ResponseColumns, Study
from amr_pipeline_tests.servers import ObjectStore, object_store
from amr_pipeline_tests.studies.small import BENCHMARK, SOURCE, WEAK, small_study

STUDY_FILE = """
from amr_pipeline_tests.assets.test_sources import study_on

STUDY = study_on({bucket!r}, {local!r})
"""


def study_on(bucket: str, local: str) -> Study:
    """A study whose sources are lines, a folder of Parquet, and a file of this machine."""
    lines, folder = JsonLines(path=f"s3://{bucket}/in/*.jsonl.gz"), Parquet(path=f"s3://{bucket}/in/parquet/*.parquet")
    given = replace(
        WEAK,
        name="given",
        engine="imported",
        reads=JsonLines(path=f"s3://{bucket}/in/said.json", records_at="said"),
        responses_at=ResponseColumns(question="question", response="said"),
    )
    columns = QueryColumns(reference="answer")
    return small_study(
        sources=(
            replace(SOURCE, name="lines", reads=lines, columns=columns),
            replace(SOURCE, name="parquet", reads=folder, columns=columns),
            replace(SOURCE, name="local", reads=JsonLines(path=local)),
        ),
        benchmarks=(replace(BENCHMARK, reads=JsonLines(path=f"s3://{bucket}/in/exam.jsonl"), columns=columns),),
        distillers=(given,),
        selection_recipes=(),
        training_recipes=(),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("objects")) as found:
        yield found


def question(number: int) -> dict[str, str]:
    return {"question": f"How much is {number} + {number}?", "answer": str(2 * number)}


@pytest.fixture
def deployment(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment whose keys are in the environment and whose store is named, as in `docker/` and `k8s/`."""
    files = s3fs.S3FileSystem(**store.options, use_listings_cache=False, skip_instance_cache=True)
    at = f"{store.bucket}/in"
    rows = [pl.DataFrame([question(number)]) for number in range(1, 6)]
    files.pipe_file(f"{at}/one.jsonl.gz", _zipped(rows[0].write_ndjson()))
    files.pipe_file(f"{at}/two.jsonl.gz", _zipped(rows[1].write_ndjson()))
    for number, row in enumerate(rows[2:4]):
        with files.open(f"{at}/parquet/{number}.parquet", "wb") as file:
            row.write_parquet(file)
    files.pipe_file(f"{at}/exam.jsonl", rows[4].write_ndjson().encode())
    files.pipe_file(f"{at}/said.json", b'{"said": [{"question": "How much is 1 + 1?", "said": "2"}]}')
    (tmp_path / "local.jsonl").write_text(rows[0].write_ndjson())
    (tmp_path / "study.py").write_text(STUDY_FILE.format(bucket=store.bucket, local=str(tmp_path / "local.jsonl")))
    s3fs.S3FileSystem.clear_instance_cache()  # a client keeps the keys that it was made with
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    variables = {"AMR_STUDY": str(tmp_path / "study.py"), "AMR_HOME": str(tmp_path), "AMR_S3_ENDPOINT": store.url}
    return deployment_from_environment(variables)


def _zipped(text: str) -> bytes:
    return gzip.compress(text.encode())


def collected(deployment: Deployment, asset: str, partition: str) -> dg.ExecuteInProcessResult:
    """A run of one asset's partition in the code location of a deployment."""
    definitions = assemble(deployment)
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey([asset])})
    return job.execute_in_process(partition_key=partition, raise_on_error=True)


def test_what_a_study_names_on_s3_is_read_from_the_stores_own_address(deployment: Deployment):
    tables = Platform.of(deployment).tables()
    for name in ("lines", "parquet"):
        assert collected(deployment, "raw_queries", name).success
    assert sorted(tables.read("raw_queries", "lines")["reference"]) == ["2", "4"]
    assert sorted(tables.read("raw_queries", "parquet")["reference"]) == ["6", "8"]
    assert collected(deployment, "benchmark_queries", "exam").success
    assert tables.read("benchmark_queries", "exam")["reference"].to_list() == ["10"]


def test_responses_on_s3_are_read_from_the_stores_own_address(deployment: Deployment):
    (row,) = study_of(deployment).distillers
    assert list(imported_responses(row, [], deployment.storage_options)) == []
    assert stored_responses(row, tuple(sorted(deployment.storage_options.items()))).num_responses == 1


def test_a_replaced_file_of_a_folder_on_s3_is_another_source(deployment: Deployment, store: ObjectStore):
    def digests() -> list[str | None]:
        return [row.reads.digest for row in study_of(deployment).sources if isinstance(row.reads, JsonLines | Parquet)]

    before = digests()
    assert all(digest is not None for digest in before)
    assert digests() == before
    files = s3fs.S3FileSystem(**store.options, use_listings_cache=False, skip_instance_cache=True)
    files.pipe_file(f"{store.bucket}/in/one.jsonl.gz", _zipped('{"question": "Another?", "answer": "1"}\n'))
    assert [one == other for one, other in zip(before, digests(), strict=True)] == [False, True, True]


@pytest.mark.parametrize("fault", ["away", "refuses", "no keys"])
def test_a_store_that_is_not_reached_costs_its_own_sources_only(
    fault: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, free_port: int
):
    if fault == "away":
        deployment = replace(deployment, storage_options={"endpoint_url": f"http://127.0.0.1:{free_port}"})
    elif fault == "refuses":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    found = {row.name: row.reads for row in study_of(deployment).sources}
    assert {name: getattr(reads, "digest", None) == UNREACHED for name, reads in found.items()} == {
        "lines": True,
        "parquet": True,
        "local": False,
    }
    assert collected(deployment, "raw_queries", "local").success
    with pytest.raises(UnreachedFilesError, match=r"s3://amr/in/\*.jsonl.gz cannot be read at http.*AMR_S3_ENDPOINT"):
        collected(deployment, "raw_queries", "lines")


def test_a_store_that_came_back_is_asked_for_what_it_holds_first(deployment: Deployment):
    row = study_of(deployment).sources[0]
    assert isinstance(row.reads, JsonLines)
    late = replace(row, reads=replace(row.reads, digest=UNREACHED))
    with pytest.raises(UnreachedFilesError, match="run again"):
        read_queries(late, options=deployment.storage_options)
