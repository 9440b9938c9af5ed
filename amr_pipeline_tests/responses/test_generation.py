from amr_pipeline.responses.generation import response_id, seed_of


def test_identity_has_query_fingerprint_and_pass():
    ids = {response_id(query, row, index) for query in "ab" for row in "xy" for index in (0, 1)}
    assert len(ids) == 8
    assert response_id("a", "x", 0) == response_id("a", "x", 0)


def test_seeds_fit_every_engine_and_differ():
    seeds = {seed_of(response_id("q", "f", index)) for index in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
