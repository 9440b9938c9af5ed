"""A pool outlives the process that made it: the next one finds its engine warm, two at once share it, a command ends it.

How it treats its callers is `test_pool_keeper`.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from amr_pipeline.engines.engine_work import EngineSettings
from amr_pipeline.engines.kept_pools import pool_name
from amr_pipeline_tests.engines.nodes import head_node

DRIVER = """
import json, sys
from pathlib import Path
from amr_pipeline.engines.engine_pools import EnginePools
from amr_pipeline.responses.generation import GenerationRequest
from amr_pipeline.studies.micro import STUDY

requests = (
    GenerationRequest(response_id=f"r{n}", messages=(("user", f"What is {n % 50 + 10}+{n % 30}?"),), seed=n)
    for n in range(200)
)
pools = EnginePools(ray_address=sys.argv[1], cache=Path(sys.argv[2]), max_engines=1)
row = STUDY.distiller("weak")
answers = pools.generate(row, requests)
texts, load, gpus = {}, None, None
for answer in answers:
    texts[answer.response_id] = answer.text
    load = load or pools.load(row).text()
    gpus = pools.gpus_held(row)
pools.close()
print(json.dumps({"texts": texts, "load": load, "gpus": gpus}))
"""


def start(address: str, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, address, str(folder / "cache")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def said(process: "subprocess.Popen[str]") -> dict:
    output, _ = process.communicate(timeout=720)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def amr(address: str, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "AMR_RAY_ADDRESS": address, "AMR_HOME": str(home)}
    command = [sys.executable, "-W", "ignore", "-m", "amr_pipeline.command_line", "pools", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=360, env=environment, check=False)


def engines(cluster: subprocess.Popen[bytes]) -> set[int]:
    found = set()
    for one in psutil.Process(cluster.pid).children(recursive=True):
        with suppress(psutil.Error):  # it may end, or be a zombie, between being listed and being looked at
            if "ray::VllmEngine" in " ".join(one.cmdline()[:1]):
                found.add(one.pid)
    return found


@pytest.mark.engines
@pytest.mark.timeout(1440)
def test_runs_one_after_another_and_at_once_share_one_engine_that_a_command_ends(tmp_path: Path, free_port: int):
    address = f"127.0.0.1:{free_port}"
    with head_node(tmp_path, free_port) as cluster:
        first = said(start(address, tmp_path))
        (engine,) = engines(cluster)
        assert first["load"].startswith("1 engine")
        assert first["gpus"] == 0.0
        both = [start(address, tmp_path), start(address, tmp_path)]
        assert [said(one)["texts"] for one in both] == [first["texts"]] * 2, "the same texts, whoever else asked"
        assert engines(cluster) == {engine}, "no other engine was started"

        listed = amr(address, tmp_path)
        assert listed.returncode == 0, listed.stderr
        assert "weak-" in listed.stdout
        assert "1 to 1" in listed.stdout
        strange = amr(address, tmp_path, "--stop", "strange")
        assert strange.returncode == 2
        assert "there are: weak-" in " ".join(strange.stderr.replace("│", " ").split())
        ended = amr(address, tmp_path, "--stop-idle")
        assert ended.stdout.startswith("ended weak-"), ended.stderr
        deadline = time.monotonic() + 180
        while engines(cluster):
            assert time.monotonic() < deadline, "the engine outlived its pool"
            time.sleep(0.2)
        assert "No pool" in amr(address, tmp_path).stdout


def test_a_pool_is_named_by_its_model_and_by_all_that_decides_how_it_is_loaded():
    one = EngineSettings(model="deepseek-ai/DeepSeek-R1", revision="a" * 40, max_model_len=8192, dtype="auto")
    other = EngineSettings(model="deepseek-ai/DeepSeek-R1", revision="b" * 40, max_model_len=8192, dtype="auto")
    assert pool_name(one).startswith("deepseek-r1-")
    assert pool_name(one) != pool_name(other)
    assert pool_name(one) == pool_name(one)
