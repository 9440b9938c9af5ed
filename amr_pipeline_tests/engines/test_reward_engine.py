from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from amr_pipeline.engines.engine_pools import open_pools
from amr_pipeline.engines.engine_work import EngineSettings, Work
from amr_pipeline.engines.model_folders import model_address
from amr_pipeline.engines.reward_engine import RewardEngine
from amr_pipeline.fingerprint import files_digest
from amr_pipeline.studies.micro import WEIGHTS
from amr_pipeline.studies.study import Scorer
from amr_pipeline.verdicts.verifier import RateRequest

CONTEXT = 256
TURNS = (("user", "My number is 4."), ("assistant", "OK."), ("user", "What is my number?"), ("assistant", "4"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of five heads with random weights, in the shape of micro's models."""
    like, _ = model_address(WEIGHTS + "judge", None)
    made = tmp_path_factory.mktemp("reward")
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(like)
    config.num_labels = 5
    AutoModelForSequenceClassification.from_config(config).float().save_pretrained(made)
    AutoTokenizer.from_pretrained(like).save_pretrained(made)
    return made


def expected(folder: Path, turns: tuple[tuple[str, str], ...]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False, add_generation_prompt=False
    )
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        return model(ids).logits[0].tolist()


def test_heads_are_the_classifiers_outputs_on_the_whole_conversation(folder: Path):
    engine = RewardEngine(
        EngineSettings(model=str(folder), revision=None, max_model_len=CONTEXT, dtype="auto", family="reward")
    )
    work = [
        Work(work_id="a", kind="rate", messages=TURNS),
        Work(work_id="b", kind="rate", messages=(*TURNS[:-1], ("assistant", "5"))),
        Work(work_id="long", kind="rate", messages=(("user", "?"), ("assistant", "x" * 2_000))),
        Work(work_id="w", kind="write", messages=TURNS[:1]),
    ]
    first, other, long, written = engine.exchange(work, 4, 60.0).done
    assert first.heads == pytest.approx(expected(folder, TURNS), abs=1e-4)
    assert other.heads != first.heads
    assert (long.heads, long.finish_reason) == (None, "error")
    assert (written.heads, written.finish_reason) == (None, "error")


@pytest.mark.engines
def test_the_pools_serve_it(folder: Path, ray_cluster: None, tmp_path: Path):
    scorer = Scorer(
        model=str(folder), revision=files_digest(sorted(folder.iterdir())), max_model_len=CONTEXT, gpus_per_replica=0
    )
    pools = open_pools(ray_address=None, cache=tmp_path, max_engines=1)
    try:
        asked = [
            RateRequest(request_id="a", messages=TURNS),
            RateRequest(request_id="long", messages=(("user", "?"), ("assistant", "x" * 2_000))),
        ]
        replies = {reply.request_id: reply for reply in pools.rate_replies(scorer, asked)}
    finally:
        pools.close()
    assert replies["a"].heads == pytest.approx(expected(folder, TURNS), abs=1e-4)
    assert (replies["long"].heads, replies["long"].cause) == (None, "too_complex")
