"""The versions of a Ray cluster as one JSON line: python -m amr_pipeline.engines.ray_versions ADDRESS.

A program of its own, because Ray's client ends the process that it is in where it cannot get through.

Belongs here: asking a cluster. Does not belong here: what its versions mean (`ray_check`).
"""

import json
import sys


def versions_of(address: str) -> dict[str, str]:
    """`{"ray": ..., "python": ...}` of the cluster at `host:port`, or behind a client server at `ray://host:port`."""
    if address.startswith("ray://"):
        from ray.util.client.worker import Worker

        client = Worker(address.removeprefix("ray://"), connection_retries=0)
        try:
            told = client.connection_info()
        finally:
            client.close()
        return {"ray": str(told["ray_version"]), "python": str(told["python_version"])}
    from ray._common.usage import usage_lib
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue] (a compiled module)

    told = usage_lib.get_cluster_metadata(GcsClient(address=address))
    return {"ray": str(told["ray_version"]), "python": str(told["python_version"])}


if __name__ == "__main__":
    print(json.dumps(versions_of(sys.argv[1])))
