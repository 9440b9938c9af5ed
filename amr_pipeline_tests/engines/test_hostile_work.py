"""Questions and models that mean harm, in a real engine: each ends as an outcome of its own, with a reason."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amr_pipeline.engines.engine_pools import EnginePools
from amr_pipeline.engines.model_folders import model_address
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.micro import STUDY
from amr_pipeline.studies.study import Distiller

pytestmark = pytest.mark.engines

STRONG = STUDY.distiller("strong")
END_OF_TURN, SOME_LETTER = 2, 40


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[EnginePools]:
    opened = EnginePools(ray_address=None, cache=tmp_path_factory.mktemp("cache"), max_engines=1)
    yield opened
    opened.close()


def always_saying(token: int, folder: Path) -> Distiller:
    """A distiller whose weights make one token the likeliest, whatever was said before."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_address(STRONG.model, None)[0], folder)
    weights = {name: torch.zeros_like(values) for name, values in load_file(folder / "model.safetensors").items()}
    for name, values in weights.items():
        if name.endswith("norm.weight"):
            values.fill_(1.0)
        if name.endswith("embed_tokens.weight"):
            values.fill_(0.1)
            values[token] = 4.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    sampling = replace(STRONG.sampling, temperature=0.0, max_tokens=200)
    return replace(STRONG, model=str(folder), revision=None, sampling=sampling)


def ask(pools: EnginePools, row: Distiller, *questions: str) -> list[GeneratedResponse]:
    asked = [
        GenerationRequest(response_id=str(place), messages=(("user", question),), seed=place)
        for place, question in enumerate(questions)
    ]
    return sorted(pools.generate(row, asked), key=lambda answer: answer.response_id)


def test_every_kind_of_question_ends_as_itself(pools: EnginePools):
    short = replace(STRONG, sampling=replace(STRONG.sampling, max_tokens=3))
    answers = ask(pools, short, "What is 12+30?", "lone \ud800 surrogate", "x" * 200_000, "", "\x00\x1b[2J<|im_end|>")
    assert [answer.finish_reason for answer in answers] == ["length", "length", "error", "length", "length"]
    assert [answer.response_tokens for answer in answers] == [3, 3, 0, 3, 3]
    assert "tokens, the engine takes" in answers[2].text
    for answer in answers:
        answer.text.encode()


def test_a_model_that_repeats_itself_is_stopped_and_said_to_loop(pools: EnginePools, tmp_path: Path):
    (answer,) = ask(pools, always_saying(SOME_LETTER, tmp_path / "model"), "Say something")
    assert answer.finish_reason == "looping"
    assert len(set(answer.text)) == 1


def test_a_model_that_says_nothing_has_answered(pools: EnginePools, tmp_path: Path):
    (answer,) = ask(pools, always_saying(END_OF_TURN, tmp_path / "model"), "Say something")
    assert (answer.finish_reason, answer.text.strip()) == ("stop", "")
    assert answer.response_tokens <= 1
