"""Two nodes on one machine, an engine on each, by kind of GPU: one is killed, the other one finishes the work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amr_pipeline_tests.engines.nodes import head_node, node
from amr_pipeline_tests.told import kill_tree

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

DRIVER = """
import json, logging, os, signal, sys, time
from dataclasses import replace
import ray

from amr_pipeline.engines import engine_replicas, engine_stream, engine_work, kept_pools
from amr_pipeline.engines.engine_replicas import Pool, PoolSize
from amr_pipeline.engines.engine_work import Done, EngineSettings, Exchanged, Load, Work

class Slow:
    def __init__(self, settings):
        self.held = []
    def name(self):
        return "slow 1"
    def forget(self):
        self.held.clear()
    def exchange(self, new, at_least, seconds, give_back):
        self.held += new
        time.sleep(0.2)
        done, self.held = self.held[:8], self.held[8:]
        node = ray.get_runtime_context().get_node_id()
        return Exchanged(
            done=[
                Done(work_id=work.work_id, text=node, finish_reason="stop", prompt_tokens=1, response_tokens=1)
                for work in done
            ],
            load=Load(running=8, waiting=0, limit=8),
        )

engine_work.CPU_SEQUENCES = 8
engine_replicas.SECONDS_BETWEEN_LOOKS = engine_stream.SECONDS_BETWEEN_LOOKS = 1.0
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
while ray.cluster_resources().get("CPU") != 2:
    time.sleep(0.2)
settings = EngineSettings(model="own", revision=None, max_model_len=8192, dtype="auto")
kinds = {one["NodeID"]: one["Labels"][engine_replicas.GPU_KIND] for one in ray.nodes()}
gpus, placed = engine_replicas._gpus_by_kind(), {}
for wanted in ("L4", "B200/H100"):
    pool = Pool(replace(settings, gpus=1.0, gpu_kinds=tuple(wanted.split("/"))), {}, Slow)
    pool.open()
    (done,) = pool.run([Work(work_id="w", kind="write", messages=(("user", "?"),))])
    placed[wanted] = kinds[done.text]
    free = [kept_pools._free("GPU", (kind,)) for kind in ("L4", "H100")]
    while sum(free) != 1:  # Ray says it a moment later
        free = [kept_pools._free("GPU", (kind,)) for kind in ("L4", "H100")]
    assert free[("L4", "H100").index(placed[wanted])] == 0, free
    pool.close()
spanning = replace(settings, gpus=2.0, tensor_parallel_size=2)  # a bundle per GPU, and each node has one
for wanted in ("L4/H100", "L4"):
    pool = Pool(replace(spanning, gpu_kinds=tuple(wanted.split("/"))), {}, Slow)
    pool.replicas = [engine_replicas.Replica()]
    pool._start(pool.replicas[0])
    placed[f"two of {wanted}"] = pool.replicas[0].place.wait(3 if wanted == "L4" else 60)
    pool.close()
pool = Pool(settings, {}, Slow, size=PoolSize(fewest=2, most=2))
pool.open()
work = [Work(work_id=f"w{number}", kind="write", messages=(("user", "?"),)) for number in range(600)]
answers, early = [], 0
for done in pool.run(work):
    answers.append(done)
    if not early and len(answers) >= 80 and len({one.text for one in answers}) == 2:
        early = len(answers)
        print("now", flush=True)  # whoever started this kills a node
        sys.stdin.readline()
print(json.dumps({
    "placed": placed,
    "gpus": gpus,
    "answered": len(answers),
    "distinct": len({one.work_id for one in answers}),
    "nodes early": len({one.text for one in answers[:early]}),
    "nodes late": len({one.text for one in answers[-80:]}),
    "errors": sum(one.finish_reason == "error" for one in answers),
    "starting": sum(one.starting is not None for one in pool.replicas),
}), flush=True)
"""


def test_a_node_that_is_killed_costs_its_place_and_no_answer(tmp_path: Path, free_port: int):
    address = f"127.0.0.1:{free_port}"
    h100, l4 = (("--num-gpus=1", f"--labels=ray.io/accelerator-type={kind}") for kind in ("H100", "L4"))
    there = (f"--address={address}", "--node-ip-address=127.0.0.1")
    with head_node(tmp_path, free_port, *h100), node(tmp_path, *there, *l4) as other:
        driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DRIVER, address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        assert driver.stdin is not None
        assert driver.stdout is not None
        assert driver.stdout.readline() == "now\n"
        kill_tree(other)
        said, _ = driver.communicate("go on\n", timeout=600)
    (told,) = (line for line in said.splitlines() if line.startswith("{"))  # Ray's core complains beside it
    assert json.loads(told) == {
        "placed": {"L4": "L4", "B200/H100": "H100", "two of L4/H100": True, "two of L4": False},
        "gpus": "1 H100, 1 L4",
        "answered": 600,
        "distinct": 600,
        "nodes early": 2,
        "nodes late": 1,
        "errors": 0,
        "starting": 1,
    }
