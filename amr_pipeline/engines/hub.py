"""Data sets on the Hugging Face hub, read as Parquet at a pinned commit; no code of theirs runs here."""

from collections.abc import Iterator, Mapping

import polars as pl

from amr_pipeline.studies.study import HubDataset


class UnpinnedDatasetError(ValueError):
    """A hub data set without a commit; its rows could change between two runs."""


def hub_address(reads: HubDataset) -> str:
    """The Parquet files of a data set at its commit, as polars reads them.

    Raises:
        UnpinnedDatasetError: the row names no 40-digit commit.
    """
    if reads.revision is None or len(reads.revision) != 40:
        raise UnpinnedDatasetError(
            f"{reads.repository} has revision {reads.revision!r}; set a 40-digit commit in its row"
        )
    folder = f"{reads.name}/" if reads.name else ""
    return f"hf://datasets/{reads.repository}@{reads.revision}/{folder}**/{reads.split}*.parquet"


def read_hub_dataset(reads: HubDataset) -> Iterator[Mapping[str, object]]:
    """Rows of a hub data set, one batch in memory at a time."""
    for batch in pl.scan_parquet(hub_address(reads)).collect_batches():
        yield from batch.iter_rows(named=True)
