import dagster as dg

from amr_pipeline.assets.live_notes import LiveNotes
from amr_pipeline.responses.progress import Progress


def test_an_observation_a_minute_says_how_far_the_work_is_and_how_full_its_engines_are():
    now = [0.0]
    with dg.instance_for_test() as instance:
        progress = Progress(total=100, what="responses of strong", say=str, clock=lambda: now[0])
        notes = LiveNotes(instance, "responses", "strong", lambda: "1 engine", clock=lambda: now[0])
        for _ in range(70):
            now[0] += 2.0
            progress.add(1, 50)
            notes.note(progress)
        found = instance.fetch_observations(dg.AssetKey("responses"), limit=10).records
    assert len(found) == 2, "one a minute, though 70 answers came"
    (newest, _) = [record.asset_observation for record in found]
    assert newest is not None
    metadata = {name: value.value for name, value in newest.metadata.items()}
    assert metadata["distiller"] == "strong"
    assert metadata["responses so far"] + metadata["responses owed"] == 100
    assert metadata["responses per second"] == 0.5
    assert metadata["tokens per second"] == 25.0
    assert metadata["seconds left"] == 2 * metadata["responses owed"]
    assert metadata["engines"] == "1 engine"
    assert newest.description is not None
    assert newest.description.startswith("responses of strong: 60/100")
