"""docker-compose.yml: read by the real `docker compose`, without an engine, and hardened throughout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from llmops.config import load

from .conftest import ROOT

PROFILES = {"cpu": "serving", "gpu": "serving-gpu", "vllm": "serving-vllm"}
TEXT = (ROOT / "docker-compose.yml").read_text()
REQUIRED = set(re.findall(r"\$\{(\w+):\?", TEXT))
SERVICES = yaml.safe_load(TEXT)["services"]
each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def compose(*args: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Debian's docker-compose, or the plugin of the Docker CLI; skip where there is neither."""
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if not shutil.which(command[0]) or subprocess.run([*command, "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed (Debian: apt-get install docker-compose)")
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        [*command, "--env-file", "/dev/null", "-f", ROOT / "docker-compose.yml", *args],
        env={**clean, **(dict.fromkeys(REQUIRED, "x") if environ is None else environ)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("profile", "serving"), PROFILES.items())
def test_compose_takes_the_file_with_each_profile(profile, serving):
    done = compose("--profile", profile, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert set(services) & set(PROFILES.values()) == {serving}
    assert services[serving]["networks"]["outside"]["aliases"] == ["serving"]


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_compose_refuses_to_start_without_a_password(missing):
    done = compose("config", "-q", environ=dict.fromkeys(REQUIRED - {missing}, "x"))
    assert done.returncode != 0 and missing in done.stderr


def test_there_is_no_password_in_the_file():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|FERNET|AUTH$|CONN$|BROKER|RESULT_BACKEND", name):
                assert "${" in value, name


def test_the_file_of_passwords_is_neither_committed_nor_in_an_image():
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored and "!.env" not in ignored


@each_service
def test_every_service_is_hardened_and_bounded(name):
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "network_mode" not in service
    limits = service["deploy"]["resources"]["limits"]
    assert limits["cpus"] and limits["memory"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port


def test_vllm_loads_the_kernels_that_it_compiles_from_a_volume():
    """Triton compiles into the home folder; Docker mounts a tmpfs with noexec, so a linker would refuse them there."""
    dockerfile = (ROOT / "docker" / "vllm.Dockerfile").read_text()
    folders = re.findall(r"--home-dir (\S+)|TORCHINDUCTOR_CACHE_DIR=(\S+)|VLLM_CACHE_ROOT=(\S+)", dockerfile)
    assert len(folders) == 3
    mounted = [volume.split(":")[1] for volume in SERVICES["serving-vllm"]["volumes"] if volume.startswith("vllm:")]
    for folder in map("".join, folders):
        assert any(folder.startswith(volume) for volume in mounted), folder


@each_service
def test_every_service_that_stays_is_watched(name):
    service = SERVICES[name]
    if name.startswith("serving"):  # its image has the health check
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
        assert "\nHEALTHCHECK --" in dockerfile
    elif name != "airflow-init":
        assert service["healthcheck"]["test"]
    for other, how in service.get("depends_on", {}).items():
        good = "service_completed_successfully" if other == "airflow-init" else "service_healthy"
        assert how["condition"] == good


def test_databases_can_only_be_reached_from_inside():
    networks = yaml.safe_load(TEXT)["networks"]
    assert networks["inside"]["internal"] is True
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["inside"] and "ports" not in SERVICES[name]


@each_service
def test_images_from_elsewhere_are_pinned(name):
    service = SERVICES[name]
    tag = service["image"].partition(":")[2]
    assert tag and "latest" not in tag
    assert "build" in service or re.search(r"@sha256:[0-9a-f]{64}$", tag)


@each_service
def test_settings_are_ones_that_llmops_and_airflow_have(name):
    environment = {k: str(v) for k, v in SERVICES[name].get("environment", {}).items()}
    load(environ={k: v for k, v in environment.items() if k.startswith("LLMOPS_") and k != "LLMOPS_CONFIG"})
    from airflow.configuration import conf

    for setting in (k for k in environment if k.startswith("AIRFLOW__")):
        _, section, option = setting.lower().split("__")
        known = conf.configuration_description.get(section, {}).get("options", {})
        assert option in known or section == "celery", setting  # a provider's that tests do without


def seconds(text: str) -> float:
    number = re.fullmatch(r"(\d+)s", text)
    assert number, text
    return float(number[1])


@pytest.mark.parametrize("name", PROFILES.values())
def test_serving_has_the_time_that_its_longest_answer_takes(name):
    environment = {k: str(v) for k, v in SERVICES[name]["environment"].items()}
    serving = load(environ={k: v for k, v in environment.items() if k != "LLMOPS_CONFIG"}).serving
    assert seconds(SERVICES[name]["stop_grace_period"]) >= serving.drain_s + serving.timeout_s + 10


@pytest.mark.parametrize("name", PROFILES.values())
def test_serving_reads_the_configuration_that_the_pipeline_reads(name, tmp_path):
    """Else it would look for another model than the one that the pipeline releases."""
    serving, worker = SERVICES[name], SERVICES["airflow-worker"]
    assert serving["environment"]["LLMOPS_CONFIG"] == worker["environment"]["LLMOPS_CONFIG"]
    for volume in worker["volumes"]:
        if ":/etc/llmops" in volume or ":/var/lib/llmops" in volume:
            assert volume in serving["volumes"], volume
    own = tmp_path / "config.yaml"
    own.write_text("release: {name: my-bot}\nserving: {timeout_s: 999, host: 127.0.0.1}\n")
    environment = {k: str(v) for k, v in serving["environment"].items() if k != "LLMOPS_CONFIG"}
    config = load(own, environ=environment)
    assert config.release.name == "my-bot"
    assert seconds(serving["stop_grace_period"]) >= config.serving.drain_s + config.serving.timeout_s + 10


def test_the_example_has_a_configuration_where_compose_looks():
    folder = re.search(r"\$\{LLMOPS_CONFIG_FOLDER:-([^}]+)\}", TEXT)
    assert folder and (ROOT / folder[1] / "config.yaml").is_file()
