"""A subset version that runs of tests name in MLflow."""

from amr_pipeline.engines.mlflow_runs import TrainedOn

SUBSET = TrainedOn(
    name="stage1",
    version=3,
    digest="0123456789abcdef" * 4,
    address="s3://amr/tables/subsets/stage1",
    num_responses=20,
    num_examples=19,
    num_tokens=700,
)
