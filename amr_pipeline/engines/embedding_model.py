"""Embeddings of texts: a hashing vectorizer that needs no weights, or an encoder from the hub or a folder."""

import zlib
from collections.abc import Sequence

import numpy as np

from amr_pipeline.queries.decontamination import Embed

HASHED = "hashed-char-ngrams"
WIDTH = 4096


def embedder(model: str, revision: str | None) -> Embed:
    """The embedding function a study names: `hashed-char-ngrams`, or an encoder's hub id or folder."""
    return hashed_char_ngrams if model == HASHED else _encoder(model, revision)


def hashed_char_ngrams(texts: Sequence[str]) -> np.ndarray:
    """Unit-length counts of hashed character 3-, 4- and 5-grams; float32 of shape (texts, 4096).

    Finds copies with edits; it does not know that two wordings mean the same.
    """
    vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for index, text in enumerate(texts):
        for size in (3, 4, 5):
            for start in range(max(1, len(text) - size + 1)):
                vectors[index, zlib.crc32(text[start : start + size].encode()) % WIDTH] += 1.0
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _encoder(model: str, revision: str | None) -> Embed:
    """First-token (CLS) embeddings of a transformers encoder such as bge-m3, in batches of 32."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    encoder = AutoModel.from_pretrained(model, revision=revision, trust_remote_code=False, use_safetensors=True).eval()

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(list(texts[start : start + 32]), padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                rows.append(
                    torch.nn.functional.normalize(encoder(**batch).last_hidden_state[:, 0], dim=-1).float().numpy()
                )
        return np.concatenate(rows)

    return embed
