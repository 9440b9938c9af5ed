import pytest

from amr_pipeline.engines.hub import UnpinnedDatasetError, hub_address
from amr_pipeline.studies.study import HubDataset


def test_only_pinned_data_sets_are_read():
    commit = "0123456789" * 4
    assert (
        hub_address(HubDataset(repository="a/b", revision=commit, name="main"))
        == f"hf://datasets/a/b@{commit}/main/**/train*.parquet"
    )
    for revision in (None, "main"):
        with pytest.raises(UnpinnedDatasetError, match="commit"):
            hub_address(HubDataset(repository="a/b", revision=revision))
