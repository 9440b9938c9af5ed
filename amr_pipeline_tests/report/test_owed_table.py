import json

from amr_pipeline.report.owed_table import Owed, OwedPartition, owed_text

SHARDS = tuple(f"{index:02x}" for index in range(16))


def of(distiller: str, shard: str, **rows: int) -> OwedPartition:
    return OwedPartition(
        asset="verdicts",
        partition=f"{distiller}|{shard}",
        distiller=distiller,
        shard=shard,
        rows=rows,
        because=("lacks rows",) if rows else ("never materialized",),
    )


def found(*owed: OwedPartition) -> Owed:
    return Owed(study="s", shards=SHARDS, partitions={"queries": 16, "verdicts": 32}, owed=owed)


def test_nothing_owed_is_a_sentence():
    assert "Nothing is owed" in owed_text(found())


def test_a_distiller_has_a_line_with_its_shards_as_ranges_and_a_column_per_cause():
    rows = [of("one", shard, new=2) for shard in SHARDS[2:7]] + [of("one", "0a", new=1, changed=4)]
    said = owed_text(found(*rows, *(of("two", shard) for shard in SHARDS))).splitlines()
    assert said[0] == "verdicts: 22 of 32 partitions owed, 15 rows"
    assert said[1].split() == ["distiller", "partitions", "shards", "new", "changed", "the", "record"]
    assert said[3].split() == ["one", "6", "02-06,", "0a", "11", "4", "lacks", "rows"]
    assert said[4].split() == ["two", "16", "all", "0", "0", "never", "materialized"]


def test_many_ranges_are_cut_short_and_a_reason_of_some_says_of_how_many():
    scattered = [of("one", shard, new=1) for shard in SHARDS[::2]] + [of("one", "0f")]
    said = owed_text(found(*scattered))
    assert "00, 02, 04, 06 and 4 more" in said
    assert "lacks rows (8); never materialized (1)" in said


def test_partitions_of_other_tables_share_a_line_where_they_share_the_reason():
    rows = [OwedPartition(asset="queries", partition=shard, because=("of other code",)) for shard in SHARDS[:3]]
    said = owed_text(found(*rows, OwedPartition(asset="queries", partition="03", because=("never materialized",))))
    assert said.splitlines()[0] == "queries: 4 of 16 partitions owed"
    assert said.splitlines()[3:] == [
        "00, 01, 02       3  of other code",
        "03               1  never materialized",
    ]


def test_the_document_holds_sums_and_every_partition():
    document = json.loads(json.dumps(found(of("one", "00", new=2), of("two", "01", new=1)).as_json()))
    assert document["assets"]["verdicts"] == {"partitions": 32, "owed": 2, "rows": {"new": 3}}
    assert document["assets"]["queries"] == {"partitions": 16, "owed": 0, "rows": None}
    assert [(one["distiller"], one["shard"], one["rows"]) for one in document["owed"]] == [
        ("one", "00", {"new": 2}),
        ("two", "01", {"new": 1}),
    ]
