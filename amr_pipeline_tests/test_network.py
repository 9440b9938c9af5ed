"""Who reaches whom under k8s/'s network policies, by Kubernetes' own rules: a connection needs both ends' consent."""

import shutil
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from amr_pipeline_tests.rendered import OVERLAYS, REPOSITORY, pods, resources
from amr_pipeline_tests.run_pods import run_pod

PORTS = {
    "proxy": (8443, 8444, 8445),
    "webserver": (3000,),
    "mlflow": (5000,),
    "code": (4000,),
    "daemon": (),
    "runs": (22,),
    "housekeeping": (22,),
    "hub": (22,),
}
RAY_PORTS = (6379, 8265, 10001, 52365, 12345)

NAME_SERVER, DATABASE, STORE, API_SERVER = "kube-dns", "10.1.2.3", "10.1.2.4", "10.96.0.1"
PUBLIC, METADATA = "93.184.216.34", "169.254.169.254"


def labels(overlay: str) -> dict[str, dict[str, str]]:
    return {**{name: pod.labels for name, pod in pods(overlay).items()}, "runs": run_pod(overlay).labels}


def policies(overlay: str, chosen: dict[str, str], direction: str) -> list[dict]:
    """Specifications that select a pod in a direction."""
    return [
        item["spec"]
        for (kind, _), item in resources(overlay).items()
        if kind == "NetworkPolicy"
        and item["spec"]["podSelector"].get("matchLabels", {}).items() <= chosen.items()
        and direction in item["spec"]["policyTypes"]
    ]


def fits_peer(peer: dict, other: dict[str, str] | str) -> bool:
    """Whether a peer of a rule is a pod of this namespace (by its labels), an address, or the name server."""
    known = {"podSelector", "namespaceSelector", "ipBlock"}
    assert peer.keys() <= known, f"this reader does not know {peer.keys() - known}"
    if "ipBlock" in peer:
        if isinstance(other, dict) or other == NAME_SERVER:
            return False
        address, block = ip_address(other), peer["ipBlock"]
        inside = address in ip_network(block["cidr"])
        return inside and not any(address in ip_network(out) for out in block.get("except", []))
    if "namespaceSelector" in peer:
        assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
        return other == NAME_SERVER
    return isinstance(other, dict) and peer["podSelector"].get("matchLabels", {}).items() <= other.items()


def allows(rules: Iterable[dict], side: str, other: dict[str, str] | str, port: int) -> bool:
    for rule in rules:
        assert rule.keys() <= {side, "ports"}
        ports = [entry["port"] for entry in rule.get("ports", []) if entry["protocol"] == "TCP"]
        if (not ports or port in ports) and (side not in rule or any(fits_peer(peer, other) for peer in rule[side])):
            return True
    return False


def reaches(overlay: str, source: str, target: str, port: int) -> bool:
    """Whether a pod may open a connection to another one, or to an address."""
    everyone = labels(overlay)
    going = policies(overlay, everyone[source], "Egress")
    other: dict[str, str] | str = everyone.get(target, target)
    if not any(allows(policy.get("egress", []), "to", other, port) for policy in going):
        return False
    if isinstance(other, str):
        return True
    coming = policies(overlay, other, "Ingress")
    return any(allows(policy.get("ingress", []), "from", everyone[source], port) for policy in coming)


def connections(overlay: str) -> Iterator[tuple[str, str, int]]:
    everyone = labels(overlay)
    for source in everyone:
        for target in everyone:
            for port in RAY_PORTS if target.startswith("ray") else PORTS[target]:
                if reaches(overlay, source, target, port):
                    yield source, target, port


BETWEEN_PODS = {
    ("proxy", "webserver", 3000),
    ("proxy", "mlflow", 5000),
    ("webserver", "code", 4000),
    ("daemon", "code", 4000),
    ("runs", "mlflow", 5000),
    ("housekeeping", "mlflow", 5000),
}


def test_without_gpus_pods_reach_what_they_need_and_nothing_else() -> None:
    assert set(connections("small")) == BETWEEN_PODS


def test_with_gpus_runs_reach_the_rays_client_and_ray_itself() -> None:
    among_ray = {one for one in connections("gpu") if one[0].startswith("ray") or one[1].startswith("ray")}
    ray = [name for name in labels("gpu") if name.startswith("ray")]
    inside = {(source, target, port) for source in ray for target in ray for port in RAY_PORTS}
    assert among_ray == inside | {("runs", "ray-head", 10001), ("housekeeping", "ray-head", 10001)}
    assert set(connections("gpu")) - among_ray == BETWEEN_PODS


def test_what_listens_consents_to_those_who_come_and_nobody_else() -> None:
    """The second lock: it holds where a pod's own way out was opened too far."""
    everyone = labels("small")
    consenting = {
        (source, target, port)
        for target, chosen in everyone.items()
        for source in everyone
        for port in PORTS[target]
        if any(
            allows(one.get("ingress", []), "from", everyone[source], port)
            for one in policies("small", chosen, "Ingress")
        )
    }
    pages = {(source, "proxy", port) for source in everyone for port in (8443, 8444)}
    assert consenting == BETWEEN_PODS | pages


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_denied_both_ways_by_default(overlay: str) -> None:
    for name, chosen in labels(overlay).items():
        for direction in ("Ingress", "Egress"):
            assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies(overlay, chosen, direction), (
                name
            )


def reaching(overlay: str, address: str, port: int) -> set[str]:
    return {name for name in labels(overlay) if reaches(overlay, name, address, port)}


ON_THE_STORE = {"code", "mlflow", "runs", "housekeeping"}


def asks_kubernetes(overlay: str) -> set[str]:
    return {"webserver", "daemon"} | ({"ray-head"} & labels(overlay).keys())


def on_the_store(overlay: str) -> set[str]:
    """Who reaches the store; what asks the API server reaches port 443 wherever it is, and has no key of the store."""
    return ON_THE_STORE | (asks_kubernetes(overlay) if store_port(overlay) == 443 else set())


def store_port(overlay: str) -> int:
    """Where the overlay's object store listens."""
    url = urlsplit(resources(overlay)["ConfigMap", "amr-deployment"]["data"]["AMR_S3_ENDPOINT"])
    return url.port or {"http": 80, "https": 443}[url.scheme]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_the_outside_by_their_labels_only(overlay: str) -> None:
    workers = {name for name in labels(overlay) if name.startswith("ray-worker")}
    assert reaching(overlay, NAME_SERVER, 53) == labels(overlay).keys()
    assert reaching(overlay, DATABASE, 5432) == {"code", "webserver", "daemon", "mlflow", "runs", "housekeeping"}
    assert reaching(overlay, STORE, store_port(overlay)) == on_the_store(overlay)
    assert reaching(overlay, API_SERVER, 6443) == asks_kubernetes(overlay)
    assert reaching(overlay, PUBLIC, 443) == workers | {"hub"}, "models of a hub; a run reaches no public address"
    assert reaching(overlay, PUBLIC, 80) == set()
    assert reaching(overlay, METADATA, 80) == reaching(overlay, METADATA, 443) == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_more_than_the_stores_port_is_open_beside_it(overlay: str) -> None:
    """With the private networks in place of addresses, whatever listens there on the store's port is reached too."""
    listening = {80, 443, 2379, 6443, 8080, 8333, 8443, 9000, 10250} - {store_port(overlay)}
    for port in listening:
        expected = asks_kubernetes(overlay) if port in (443, 6443) else set()
        assert reaching(overlay, API_SERVER, port) == expected, port


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_where_an_overlay_says_the_addresses_runs_reach_these_alone(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "k8s", tmp_path / "k8s")
    narrowed = tmp_path / "k8s" / "overlays" / overlay / "addresses.yaml"
    database, store = narrowed.read_text().split("\n---\n")
    blocks = database[database.index("        - ipBlock") : database.index("      ports:")]
    assert blocks in store
    narrowed.write_text(
        "\n---\n".join(
            text.replace(blocks, f"        - ipBlock: {{cidr: {address}/32}}\n")
            for text, address in ((database, DATABASE), (store, STORE))
        )
    )
    here = str(narrowed.parent)
    assert reaching(here, STORE, store_port(here)) == on_the_store(here)
    assert "runs" in reaching(here, DATABASE, 5432)
    for port in (443, 6443):
        assert reaching(here, API_SERVER, port) == asks_kubernetes(here)
    assert reaching(here, STORE, 5432) == set()
    assert reaching(here, DATABASE, store_port(here)) <= asks_kubernetes(here)


def test_until_an_overlay_says_so_nothing_reaches_a_database_or_a_store() -> None:
    base = str(REPOSITORY / "k8s" / "base")
    assert reaching(base, DATABASE, 5432) == set()
    assert {port for port in (443, 8333, 9000) if reaching(base, STORE, port) - asks_kubernetes(base)} == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_proxys_two_pages_are_open_to_strangers(overlay: str) -> None:
    open_ports = {
        (name, port)
        for name, chosen in labels(overlay).items()
        for port in (*PORTS.get(name, RAY_PORTS), *RAY_PORTS)
        if any(
            allows(policy.get("ingress", []), "from", {"app": "of-another-namespace"}, port)
            for policy in policies(overlay, chosen, "Ingress")
        )
    }
    assert open_ports == {("proxy", 8443), ("proxy", 8444)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_label_promises_has_its_policy(overlay: str) -> None:
    promised = {label for chosen in labels(overlay).values() for label in chosen if label.startswith("reaches/")}
    named = {name for kind, name in resources(overlay) if kind == "NetworkPolicy"}
    assert {label.replace("/", "-") for label in promised} <= named
