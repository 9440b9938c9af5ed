from amr_pipeline.assets.partitions import distiller_and_shard, partitions_of, response_partition, stored_partitions
from amr_pipeline.studies.micro import STUDY


def test_stored_partitions_are_dagsters_in_the_same_order():
    defined = partitions_of(STUDY)
    assert stored_partitions(STUDY, "responses") == list(defined.responses.get_partition_keys())
    assert stored_partitions(STUDY, "queries") == list(defined.shards.get_partition_keys())
    assert stored_partitions(STUDY, "near_duplicates") == ["all"]
    assert distiller_and_shard(response_partition("strong", "03")) == ("strong", "03")
