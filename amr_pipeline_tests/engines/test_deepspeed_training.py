import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from amr_pipeline.engines import deepspeed_training
from amr_pipeline.engines.deepspeed_loop import EXPORT, PROGRESS, TrainingJob
from amr_pipeline.engines.deepspeed_training import (
    TrainingError,
    TrainingResult,
    load_tokenizer,
    prepare,
    result_of,
    train,
)
from amr_pipeline.engines.model_folders import model_address
from amr_pipeline.sources import generated
from amr_pipeline.studies.micro import WEIGHTS
from amr_pipeline.training.packing import PackedRows, pack
from amr_pipeline.training.rendering import Example, render
from amr_pipeline_tests.engines.nodes import head_node

pytestmark = pytest.mark.timeout(2700)

SOAK = bool(os.environ.get("AMR_SOAK"))
BASE = model_address(WEIGHTS + "base", None)[0]


def rows(epochs: int = 8) -> PackedRows:
    tokenizer = load_tokenizer(BASE, None)
    problems = generated.problems("queries", generated.Category.MATH, 40, 1)
    pairs = [((("user", problem.turns[0]),), problem.response) for problem in problems]
    examples = list(render(pairs, tokenizer.chat_tokens, tokenizer.text_tokens, tokenizer.end_token))
    return pack(examples, sequence_tokens=128, pad_token=tokenizer.pad_token, packing=True, epochs=epochs, seed=1)


def job(folder: Path, **changes: object) -> TrainingJob:
    made = TrainingJob(
        name="t", identity="one", folder=str(folder), model=BASE, revision=None, learning_rate=2e-3, warmup_ratio=0.05, batch_rows=4,
        micro_batch_rows=2, adam_betas=(0.9, 0.95), weight_decay=0.0, gradient_clip=1.0, zero_stage=0, precision="fp32", seed=1, checkpoint_steps=5,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_packed_examples_do_not_see_each_other():
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="sdpa").eval()
    examples = [Example(tokens=tuple(range(10 + 7 * index, 30 + 9 * index)), num_prompt_tokens=3) for index in range(3)]
    packed = pack(examples, sequence_tokens=128, pad_token=0, packing=True, epochs=1, seed=1)
    assert len(packed.tokens) == 1
    with torch.no_grad():
        together = model(
            input_ids=torch.tensor(packed.tokens, dtype=torch.long),
            position_ids=torch.tensor(packed.positions, dtype=torch.long),
            use_cache=False,
        ).logits[0]
        for example in examples:
            alone = model(input_ids=torch.tensor([example.tokens])).logits[0]
            starts = [
                start
                for start in np.flatnonzero(packed.positions[0] == 0)
                if tuple(packed.tokens[0][start : start + len(example.tokens)]) == example.tokens
            ]
            assert torch.allclose(together[starts[0] : starts[0] + len(example.tokens)], alone, atol=1e-4)


@contextmanager
def killing_the_worker_after_a_checkpoint_of(one: TrainingJob) -> Iterator[list[float]]:
    """SIGKILL to the Ray Train workers below this process, once, when the job has its first checkpoint.

    Gives what the job had taken by then, as it says itself.
    """
    seconds: list[float] = []
    ended = threading.Event()

    def kill() -> None:
        while not (Path(one.folder) / PROGRESS).exists():
            if ended.wait(0.05):
                return
        seconds.append(json.loads((Path(one.folder) / PROGRESS).read_text())["spent_seconds"])
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in process.name():
                process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield seconds
    finally:
        ended.set()
        killer.join()
    assert seconds, "nothing was killed: it ended before it had a checkpoint"


def ways(folder: Path) -> list[TrainingJob]:
    """One training in every way to share its state, and in half the precision at last; the first can go on soon."""
    jobs = [job(folder / str(stage), name=f"stage {stage}", zero_stage=stage) for stage in (0, 1, 2, 3)]
    jobs[0] = replace(jobs[0], checkpoint_steps=2)
    jobs += [replace(job(folder / "one by one", name="one by one"), micro_batch_rows=1)]
    return [*jobs, replace(job(folder / "bf16", name="bf16"), precision="bf16")]


@pytest.fixture(scope="module", params=[0, 2] if SOAK else [2], ids="stage {}".format)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> dict[str, TrainingResult]:
    """A group of workers that a job breaks for good, and two workers that train it to its end, and other jobs with it.

    Those two are killed once, which their group survives.
    """
    folder = tmp_path_factory.mktemp("trained")
    killed, other, whole = (
        job(folder / name, name=name, zero_stage=request.param) for name in ("killed", "other", "whole")
    )
    packed, shorter = rows(epochs=20), rows(epochs=2)
    prepare(killed, packed)
    prepare(whole, packed)
    prepare(other, rows(epochs=1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deepspeed_training, "MAX_FAILURES", 0)
        with killing_the_worker_after_a_checkpoint_of(killed), pytest.raises(TrainingError, match=r"1 of 2 .*killed: "):
            train([killed, other], num_workers=1, ray_address=None, say=print)
    jobs = [killed, whole, *ways(folder)]
    for one in jobs[2:]:
        prepare(one, shorter)
    with killing_the_worker_after_a_checkpoint_of(jobs[2]) as spent:
        results = train(jobs, num_workers=2, ray_address=None, say=print)
    assert results[2].spent_seconds >= results[2].seconds + spent[0] > results[2].seconds, "both attempts count"
    return {"other": result_of(other)} | {one.name: result for one, result in zip(jobs, results, strict=True)}


@pytest.mark.engines
@pytest.mark.soak
def test_a_failed_job_keeps_no_other_waiting_and_goes_on_with_another_number_of_workers(
    trained: dict[str, TrainingResult],
):
    assert trained["other"].curve
    assert trained["killed"].resumed_from_step
    assert trained["whole"].resumed_from_step is None
    went_on, uninterrupted = (
        np.array([point["loss"] for point in trained[name].curve]) for name in ("killed", "whole")
    )
    np.testing.assert_allclose(went_on, uninterrupted, rtol=2e-2)
    assert uninterrupted[-1] < uninterrupted[0] / 2
    norms = [point["gradient_norm"] for point in trained["whole"].curve]
    assert all(0 < norm < 100 for norm in norms)
    assert trained["whole"].gpu_seconds == 0.0, "on CPU"


@pytest.mark.engines
@pytest.mark.soak
def test_a_killed_group_resumes_and_takes_every_step_once(trained: dict[str, TrainingResult]):
    killed = trained["stage 0"]
    assert killed.resumed_from_step
    assert [int(point["step"]) for point in killed.curve] == list(range(1, killed.num_steps + 1))


@pytest.mark.engines
@pytest.mark.soak
def test_a_finished_job_is_not_run_again_unless_its_export_is_damaged(trained: dict[str, TrainingResult]):
    result = trained["bf16"]
    folder = result.checkpoint.parent
    one = replace(job(folder, name="bf16"), precision="bf16")
    exported = folder / EXPORT / "model.safetensors"
    before = exported.stat().st_mtime_ns
    assert train([one], num_workers=1, ray_address=None, say=lambda line: None)[0].digest == result.digest
    assert exported.stat().st_mtime_ns == before
    weights = exported.read_bytes()
    exported.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert not deepspeed_training._finished(one), "a damaged export is owed, as the soak trains to the end"
    changed = replace(one, identity="two")
    prepare(changed, rows(epochs=1))
    with pytest.raises(RuntimeError, match="without a result"):
        result_of(changed)
    assert json.loads(json.dumps(result.curve[0])) == result.curve[0]


@pytest.mark.engines
@pytest.mark.soak
def test_every_way_to_share_the_state_takes_the_same_steps(trained: dict[str, TrainingResult], tmp_path: Path):
    results = [trained[one.name] for one in ways(tmp_path)]
    losses = [[point["loss"] for point in result.curve] for result in results]
    for result, found in zip(results[:-1], losses[:-1], strict=True):
        np.testing.assert_allclose(found, losses[0], rtol=1e-3, err_msg=str(result.checkpoint))
    np.testing.assert_allclose(losses[-1], losses[0], rtol=0.1)
    assert len({result.num_steps for result in results}) == 1


@pytest.mark.engines
@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="trains twice; AMR_SOAK=1 runs it")
def test_a_damaged_export_is_trained_again(tmp_path: Path, ray_cluster: None):
    one = job(tmp_path / "one")
    prepare(one, rows(epochs=1))
    (first,) = train([one], num_workers=1, ray_address=None, say=print)
    (first.checkpoint / "model.safetensors").write_bytes(b"half")
    (again,) = train([one], num_workers=1, ray_address=None, say=print)
    assert again.digest == first.digest
    assert (again.checkpoint / "model.safetensors").stat().st_size > 1000


WAITING = """
import os, sys, threading, time
import ray
from amr_pipeline.engines import deepspeed_training
from amr_pipeline.engines.deepspeed_loop import TrainingJob

deepspeed_training.SECONDS_BETWEEN_LOOKS = 0.5
address, folder = sys.argv[1:]
job = TrainingJob(
    name="t", identity="one", folder=folder + "/t", model=folder, revision=None, learning_rate=1e-3, warmup_ratio=0.0,
    batch_rows=2, micro_batch_rows=1, adam_betas=(0.9, 0.95), weight_decay=0.0, gradient_clip=1.0, zero_stage=0,
    precision="bf16", seed=1,
)
said = []
def train():
    deepspeed_training.train([job], num_workers=2, gpus_per_worker=1, ray_address=address, say=said.append)
threading.Thread(target=train, daemon=True).start()
groups, deadline = {}, time.monotonic() + 300
while not (groups and said) and time.monotonic() < deadline:
    time.sleep(0.2)
    groups = ray.util.placement_group_table() if ray.is_initialized() else {}
bundles = [sorted(one.items()) for group in groups.values() for one in group["bundles"].values()]
print(said[:1], bundles, {group["state"] for group in groups.values()}, flush=True)
os._exit(0)
"""


@pytest.mark.engines
def test_training_waits_for_the_gpus_of_a_cluster_that_has_none_now_and_says_so(tmp_path: Path, free_port: int):
    with head_node(tmp_path, free_port):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", WAITING, f"127.0.0.1:{free_port}", str(tmp_path)],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    said = "training waits for 2 GPUs, one for each worker; the cluster has 0 now"
    worker = [("CPU", 1.0), ("GPU", 1.0)]
    assert done.stdout.splitlines()[-1:] == [f"{[said]} {[worker, worker]} {{'PENDING'}}"], done.stderr


def test_workers_may_reach_a_hub_only_for_a_model_that_is_no_folder(tmp_path: Path):
    here, elsewhere = job(tmp_path), replace(job(tmp_path), model="owner/model")
    on_gpu, on_cpu = (deepspeed_training._worker_environment([here], on_gpu) for on_gpu in (True, False))
    assert on_gpu["HF_HUB_OFFLINE"] == on_cpu["HF_HUB_OFFLINE"] == "1"
    assert "DS_ACCELERATOR" not in on_gpu
    assert on_cpu["DS_ACCELERATOR"] == "cpu"
    assert "HF_HUB_OFFLINE" not in deepspeed_training._worker_environment([here, elsewhere], False)
