import numpy as np

from amr_pipeline.engines.embedding_model import HASHED, embedder


def test_hashed_vectors_are_unit_length_and_repeat():
    embed = embedder(HASHED, None)
    vectors = embed(["What is 2+2?", "What is 2+3?", "Name a river in Asia", ""])
    assert np.allclose(np.linalg.norm(vectors[:3], axis=1), 1.0)
    assert vectors[0] @ vectors[1] > 0.6 > vectors[0] @ vectors[2]
    assert np.array_equal(vectors, embed(["What is 2+2?", "What is 2+3?", "Name a river in Asia", ""]))
