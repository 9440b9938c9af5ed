"""What an overlay of k8s/ comes to, made by kubectl itself, and the pods in it.

Belongs here: rendering, and finding pods and containers wherever a manifest keeps them. Does not belong here: what they
should look like.
"""

import os
import subprocess
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent
OVERLAYS = ("small", "gpu")
PROGRAMS = Path(sysconfig.get_path("scripts"))


def program(name: str) -> str:
    """A program that a wheel of the test set brings, of the version that the lock holds."""
    path = PROGRAMS / name
    assert path.exists(), f"{path} is missing; install the test set: make install-test"
    return str(path)


@cache
def documents(overlay: str) -> tuple[dict, ...]:
    """Every manifest of an overlay, as the API server would get it; one copy for all, not to be changed."""
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(REPOSITORY / "k8s" / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/dev/null"},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # kustomize warns about fields that will go
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


@cache
def resources(overlay: str) -> dict[tuple[str, str], dict]:
    """Manifests by kind and name."""
    return {(document["kind"], document["metadata"]["name"]): document for document in documents(overlay)}


@dataclass(frozen=True)
class Pod:
    """A pod's metadata and specification, and the name of what makes it."""

    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]

    @classmethod
    def of(cls, name: str, template: dict) -> "Pod":
        metadata = template.get("metadata", {})
        return cls(name, metadata.get("labels", {}), metadata.get("annotations") or {}, template["spec"])

    @property
    def containers(self) -> list[dict]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def manifest(self) -> dict:
        """The same as a manifest of its own, which schemas know."""
        metadata = {"name": self.name.replace(" ", "-"), "labels": self.labels, "annotations": self.annotations}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.spec}


@cache
def pods(overlay: str) -> dict[str, Pod]:
    """Pods that an overlay's manifests make, by name; those of runs are in no manifest (`test_run_pods`)."""
    found = {}
    for (kind, name), document in resources(overlay).items():
        if kind == "Deployment":
            found[name] = Pod.of(name, document["spec"]["template"])
        if kind == "CronJob":
            found[name] = Pod.of(name, document["spec"]["jobTemplate"]["spec"]["template"])
        if kind == "RayCluster":
            spec = document["spec"]
            found["ray-head"] = Pod.of("ray-head", spec["headGroupSpec"]["template"])
            for group in spec["workerGroupSpecs"]:
                found[f"ray-worker {group['groupName']}"] = Pod.of(group["groupName"], group["template"])
    return found
