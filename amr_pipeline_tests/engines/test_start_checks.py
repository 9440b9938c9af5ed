import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from amr_pipeline.engines.engine_work import EngineSettings
from amr_pipeline.engines.start_checks import (
    GIB,
    DoesNotFitError,
    Needs,
    kv_bytes_per_token,
    needs_of,
    refuse_what_does_not_fit,
)

QWEN_7B = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}
R1 = {"num_hidden_layers": 61, "num_attention_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
ON_GPU = EngineSettings(model="own", revision=None, max_model_len=32_768, dtype="bfloat16", gpus=1)


def test_a_token_takes_what_the_models_papers_say():
    assert kv_bytes_per_token(QWEN_7B, 2) == 57_344
    assert kv_bytes_per_token(R1, 2) == 70_272
    assert kv_bytes_per_token({**QWEN_7B, "head_dim": 64}, 2) == 28_672
    assert kv_bytes_per_token({"model_type": "mamba"}, 2) is None


def test_weights_are_counted_as_they_will_be_held(tmp_path: Path):
    save_file({"a": torch.zeros(1000, dtype=torch.bfloat16), "b": torch.zeros(7)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    on_gpu, on_cpu = needs_of(tmp_path, ON_GPU), needs_of(tmp_path, replace(ON_GPU, gpus=0.0))
    assert on_gpu == Needs(weights=2 * 1000 + 4 * 7, kv_cache=57_344 * 32_768)
    assert on_cpu == Needs(weights=4 * 1007, kv_cache=2 * 57_344 * 32_768)
    assert needs_of(tmp_path / "nowhere", ON_GPU) is None


def test_what_does_not_fit_is_refused_with_the_sum():
    needs = Needs(weights=15 * GIB, kv_cache=2 * GIB)
    refuse_what_does_not_fit(ON_GPU, needs, 80 * GIB)
    refuse_what_does_not_fit(ON_GPU, None, 1)
    with pytest.raises(
        DoesNotFitError, match=r"15\.0 GiB for its weights and 2\.0 GiB .* 1 GPU\(s\) can give it 14\.4"
    ):
        refuse_what_does_not_fit(ON_GPU, needs, 16 * GIB)
    with pytest.raises(DoesNotFitError, match="this machine"):
        refuse_what_does_not_fit(replace(ON_GPU, gpus=0.0), needs, 16 * GIB)
