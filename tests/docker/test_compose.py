"""docker-compose.yml: read by the real `docker compose`, without an engine, and hardened throughout."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from llmops.config import load
from llmops.events.sinks.factory import make_sinks
from llmops.monitoring.elk.setup import WRITER_USER
from tests.programs import require_program

from .conftest import ROOT

PROFILES = {"cpu": "serving", "gpu": "serving-gpu", "vllm": "serving-vllm"}
WORKERS = {"cpu": "airflow-worker", "gpu": "airflow-worker-gpu", "vllm": "airflow-worker-gpu"}
TEXT = (ROOT / "docker-compose.yml").read_text()
ELK = {"elasticsearch", "elk-events", "elk-init", "elk-kibana", "kibana", "logstash"}
ENDING = {"doctor", "airflow-init", "state-init", "elk-init", "elk-kibana"}  #: services that do something once
REQUIRED = set(re.findall(r"\$\{(\w+):\?", TEXT))
SERVICES = yaml.safe_load(TEXT.replace("$$", "$"))["services"]  # as Compose hands it on


def compose(*args: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Debian's docker-compose, or the plugin of the Docker CLI; skip where there is neither."""
    command = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*command, "version"], capture_output=True).returncode:
        command = [require_program("docker-compose")]
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        [*command, "--env-file", "/dev/null", "-f", ROOT / "docker-compose.yml", *args],
        env={**clean, **(dict.fromkeys(REQUIRED, "x") if environ is None else environ)},
        capture_output=True,
        text=True,
    )


@cache
def rendered(profile: str, token: str = "") -> dict[str, Any]:
    known = dict.fromkeys(REQUIRED, "x") | ({"HF_TOKEN": token, "HF_ENDPOINT": "https://hub.test"} if token else {})
    done = compose("--profile", profile, "config", "--format", "json", environ=known)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


# --- by Compose itself


@pytest.mark.service
@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_has_one_serving_and_one_worker_with_a_gpu_where_there_is_one(profile):
    services = rendered(profile)
    assert set(services) & set(PROFILES.values()) == {PROFILES[profile]}
    assert services[PROFILES[profile]]["networks"]["outside"]["aliases"] == ["serving"]
    assert set(services) & set(WORKERS.values()) == {WORKERS[profile]}
    worker = services[WORKERS[profile]]
    assert worker["command"] == ["celery", "worker"] and worker["build"]["dockerfile"] == "docker/airflow.Dockerfile"
    devices = worker["deploy"]["resources"].get("reservations", {}).get("devices", [])
    assert [(d["driver"], d["capabilities"]) for d in devices] == ([("nvidia", ["gpu"])] if profile != "cpu" else [])
    assert ("TORCH_INDEX" in worker["build"].get("args", {})) == (profile != "cpu")
    assert worker["environment"]["HF_TOKEN"] == ""
    assert worker["environment"]["HF_ENDPOINT"] == "https://huggingface.co"
    given = rendered(profile, "hf_x")
    assert {name for name, service in given.items() if "hf_x" in json.dumps(service)} == {WORKERS[profile]}
    assert given[WORKERS[profile]]["environment"]["HF_ENDPOINT"] == "https://hub.test"


@pytest.mark.service
def test_elk_is_a_profile_of_its_own_and_of_one_version():
    started = set(rendered("elk")) - set(rendered("none"))
    assert started == ELK and not ELK & set(rendered("cpu"))
    versions = {s["image"].rpartition(":")[2] for s in SERVICES.values() if "docker.elastic.co" in s["image"]}
    assert versions == {"8.19.21"}  # that of the tests


@pytest.mark.service
def test_compose_refuses_to_start_without_a_password():
    done = compose("config", "-q", environ=dict.fromkeys(REQUIRED - {"POSTGRES_PASSWORD"}, "x"))
    assert done.returncode != 0 and "POSTGRES_PASSWORD" in done.stderr


def called(name: str, program: str, does: str, folder: Path, **environ: str) -> list[str]:
    """The command lines by which a service's shell script calls a program, in whose place `does` is done."""
    stand_in = folder / "bin" / program
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{folder}/calls"\n{does}\n')
    stand_in.chmod(0o755)
    environ |= {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    command = [*SERVICES[name]["entrypoint"], *SERVICES[name]["command"]]
    subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=True)
    return (folder / "calls").read_text().splitlines()


@pytest.mark.service
def test_the_database_gets_its_user_and_no_command_a_password(postgresql: Callable[[], str], tmp_path: Path) -> None:
    server = urlsplit(postgresql().replace("${TEST_PG_PASSWORD}", "x"))
    own, secret = os.environ["TEST_PG_PASSWORD"], "s'3;\"$cret"
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "llmops", "PGDATABASE": "postgres"}
    does = f'sed "s/llmops/somebody/g" | {shutil.which("psql")} "$@"'  # the test's own user is called llmops
    for _ in range(2):  # and once more, as at every start
        said = called("state-init", "psql", does, tmp_path, **where, PGPASSWORD=own, STATE_PASSWORD=secret)
    assert len(said) == 2 and not [line for line in said if secret in line or own in line]
    with psycopg.connect(host="127.0.0.1", port=server.port, user="somebody", password=secret) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("somebody",)


def test_airflow_gets_its_users_whose_passwords_no_command_line_shows(tmp_path: Path) -> None:
    does = f'[ "$1" != users ] || cat >>"{tmp_path}/asked"'
    given = {"COMPUTE_SLOTS": "2", "ADMIN": "ann", "ADMIN_PASSWORD": "s3 cret", "DEVELOPER_PASSWORD": "s4 cret"}
    said = called("airflow-init", "airflow", does, tmp_path, **given, TMPDIR=f"{tmp_path}/home/tmp")
    user = [["users", "create"], ["users", "reset-password"]]
    assert [line.split()[:2] for line in said] == [["db", "migrate"], ["pools", "set"], *user, *user]
    assert "--role Admin --username ann" in said[2] and "--role User --username developer" in said[4]
    assert not [line for line in said if "cret" in line]
    # Airflow asks twice
    assert (tmp_path / "asked").read_text() == "s3 cret\ns3 cret\n" * 2 + "s4 cret\ns4 cret\n" * 2
    assert (tmp_path / "home" / "tmp").is_dir()


# --- the file


def test_there_is_no_password_in_the_file_and_theirs_is_neither_committed_nor_in_an_image():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|FERNET|AUTH$|CONN$|BROKER|RESULT_BACKEND", name):
                assert "${" in value, name
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored and "!.env" not in ignored


def test_every_service_is_hardened_bounded_and_watched():
    for name, service in SERVICES.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "network_mode" not in service, name
        limits = service["deploy"]["resources"]["limits"]
        assert limits["cpus"] and limits["memory"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if name.startswith("serving"):  # its image has the health check
            assert "\nHEALTHCHECK --" in (ROOT / service["build"]["dockerfile"]).read_text()
        elif name not in ENDING:
            assert service["healthcheck"]["test"], name
        for other, how in service.get("depends_on", {}).items():
            good = "service_completed_successfully" if other in ENDING else "service_healthy"
            assert how["condition"] == good, name


def test_nothing_starts_before_the_doctor_has_found_the_host_good():
    def find_first(name: str) -> set[str]:
        needed = SERVICES[name].get("depends_on", {})
        return set().union(*map(find_first, needed)) if needed else {name}

    assert {first for name in SERVICES for first in find_first(name)} == {"doctor"}
    mounted = {volume.split(":")[1] for volume in SERVICES["doctor"]["volumes"]}
    assert set(SERVICES["doctor"]["entrypoint"][3:]) == mounted


def test_the_stage_deploy_asks_the_service():
    for worker in set(WORKERS.values()):
        config = load(environ={"LLMOPS_DEPLOY__URL": SERVICES[worker]["environment"]["LLMOPS_DEPLOY__URL"]})
        assert config.deploy.url == "http://serving:8000"
    for serving in PROFILES.values():
        assert SERVICES[serving]["networks"]["outside"]["aliases"] == ["serving"]


def test_images_from_elsewhere_are_pinned_and_what_is_mounted_is_there():
    for service in SERVICES.values():
        tag = service["image"].partition(":")[2]
        assert tag and "latest" not in tag
        if service["image"].startswith("docker.elastic.co/"):  # its registry gives a version once
            assert re.fullmatch(r"\d+\.\d+\.\d+", service["image"].rpartition(":")[2])
        elif "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r"@sha256:[0-9a-f]{64}$", tag)
        here = [v.split(":")[0] for v in service.get("volumes", []) if v.startswith("./")]
        assert all((ROOT / volume).exists() for volume in here), here
    (folder,) = set(re.findall(r"\$\{LLMOPS_CONFIG_FOLDER:-([^}]+)\}", TEXT))
    assert (ROOT / folder / "config.yaml").is_file()  # the example's


def test_settings_are_ones_that_llmops_and_airflow_have():
    from airflow.configuration import conf

    for service in SERVICES.values():
        environment = {k: str(v) for k, v in service.get("environment", {}).items()}
        load(environ={k: v for k, v in environment.items() if k.startswith("LLMOPS_") and k != "LLMOPS_CONFIG"})
        for setting in (k for k in environment if k.startswith("AIRFLOW__")):
            _, section, option = setting.lower().split("__")
            known = conf.configuration_description.get(section, {}).get("options", {})
            assert option in known or section == "celery", setting  # a provider's that tests do without


def test_vllm_loads_the_kernels_that_it_compiles_from_a_volume():
    """Triton compiles into the home folder; Docker mounts a tmpfs with noexec, so a linker would refuse them there."""
    dockerfile = (ROOT / "docker" / "vllm.Dockerfile").read_text()
    folders = re.findall(r"--home-dir (\S+)|TORCHINDUCTOR_CACHE_DIR=(\S+)|VLLM_CACHE_ROOT=(\S+)", dockerfile)
    assert len(folders) == 3
    mounted = [volume.split(":")[1] for volume in SERVICES["serving-vllm"]["volumes"] if volume.startswith("vllm:")]
    for folder in map("".join, folders):
        assert any(folder.startswith(volume) for volume in mounted), folder


def test_databases_are_reached_from_inside_only_and_elasticsearch_by_those_with_a_password():
    assert yaml.safe_load(TEXT)["networks"]["inside"]["internal"] is True
    for name in ("postgres", "redis", "elasticsearch"):
        assert SERVICES[name]["networks"] == ["inside"] and "ports" not in SERVICES[name]
    assert SERVICES["elasticsearch"]["environment"]["xpack.security.enabled"] == "true"
    readers = {"serving": "llmops_reader", "airflow-worker": "llmops_reader", "logstash": None}
    for name, reader in readers.items():  # one user only writes, the other one only reads
        environment = SERVICES[name]["environment"]
        assert environment["ELASTICSEARCH_USER"] == "llmops_writer" and "ELASTIC_PASSWORD" not in environment
        assert environment.get("ELASTICSEARCH_READER_USER") == reader
    made = SERVICES["elk-init"]["environment"]
    for name, part in (("serving", "SEARCH"), ("airflow-worker", "PASSAGES")):  # and these search and load passages
        login = [SERVICES[name]["environment"].get(f"ELASTICSEARCH_{part}_{what}") for what in ("USER", "PASSWORD")]
        assert login == [f"llmops_{part.lower()}", made[f"ELASTICSEARCH_{part}_PASSWORD"]]
    assert "ELASTICSEARCH_PASSAGES_USER" not in SERVICES["serving"]["environment"]


def test_with_elk_the_events_of_the_example_as_it_stands_go_to_elasticsearch(tmp_path):
    ships, setup = SERVICES["elk-events"], SERVICES["elk-init"]["environment"]
    assert ships["entrypoint"] == ["llmops", "events", "ship"]
    for writer in ("serving", "serving-gpu", "serving-vllm", "airflow-worker", "airflow-worker-gpu"):
        assert set(ships["volumes"]) <= set(SERVICES[writer]["volumes"]), writer  # the same spool, the same example
    example = {"LLMOPS_CONFIG": str(ROOT / "examples" / "support_bot" / "config.yaml"), "LLMOPS_HOME": str(tmp_path)}
    environ = {**ships["environment"], **example}
    monitoring = load(environ=environ).monitoring
    assert monitoring.elasticsearch_url == setup["LLMOPS_MONITORING__ELASTICSEARCH_URL"]
    (sink,) = make_sinks(tmp_path, monitoring, environ)
    sink.close()
    assert sink.name == "elasticsearch" and "elasticsearch" in SERVICES
    assert environ["ELASTICSEARCH_USER"] == WRITER_USER
    assert environ["ELASTICSEARCH_PASSWORD"] == setup["ELASTICSEARCH_WRITER_PASSWORD"]


def test_kibana_gets_its_password_by_a_name_that_its_image_does_not_put_on_a_command_line():
    settings = yaml.safe_load((ROOT / "docker" / "kibana" / "kibana.yml").read_text())
    asked = set(re.findall(r"\$\{(\w+)\}", json.dumps(settings)))
    assert asked == set(SERVICES["kibana"]["environment"])
    assert not [
        name for name in asked if name.lower().replace("_", ".") in settings or name.startswith("ELASTICSEARCH")
    ]


def test_logstash_keeps_what_it_has_taken_and_what_is_refused():
    settings = yaml.safe_load((ROOT / "docker" / "logstash" / "logstash.yml").read_text())
    assert settings["queue.type"] == "persisted" and settings["queue.checkpoint.writes"] == 1
    assert settings["dead_letter_queue.enable"] is True and settings["pipeline.ecs_compatibility"] == "disabled"
    assert any(volume.startswith("logstash:/usr/share/logstash/data") for volume in SERVICES["logstash"]["volumes"])
    pipeline = (ROOT / "docker" / "logstash" / "pipeline" / "llmops.conf").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", pipeline)) <= set(SERVICES["logstash"]["environment"])
    (port,) = re.findall(r"port => (\d+)", pipeline)
    assert SERVICES["logstash"]["ports"] == [f"127.0.0.1:{port}:{port}"]


@pytest.mark.parametrize("name", PROFILES.values())
def test_serving_reads_the_pipelines_configuration_and_has_the_time_of_its_longest_answer(name, tmp_path):
    """Else it would look for another model than the one that the pipeline releases."""
    serving, worker = SERVICES[name], SERVICES["airflow-worker"]
    assert serving["environment"]["LLMOPS_CONFIG"] == worker["environment"]["LLMOPS_CONFIG"]
    for volume in worker["volumes"]:
        if ":/etc/llmops" in volume or ":/var/lib/llmops" in volume:
            assert volume in serving["volumes"], volume
    own = tmp_path / "config.yaml"
    own.write_text("release: {name: my-bot}\nserving: {timeout_s: 999, host: 127.0.0.1}\n")
    environment = {k: str(v) for k, v in serving["environment"].items() if k != "LLMOPS_CONFIG"}
    for config in (load(own, environ=environment), load(environ=environment)):
        longest = config.serving.drain_s + config.serving.timeout_s
        assert float(serving["stop_grace_period"].removesuffix("s")) >= longest + 10
    assert load(own, environ=environment).release.name == "my-bot"
    assert "HF_HUB_OFFLINE=1" in (ROOT / serving["build"]["dockerfile"]).read_text()  # it never asks the Hub
    assert not [key for key in serving["environment"] if key.startswith("HF_")]


@pytest.mark.parametrize("name", sorted(set(WORKERS.values())))
def test_temporary_files_of_the_stages_and_the_hubs_cache_are_on_volumes(name):
    """In a tmpfs they would be memory: examples are mapped from them, and Spark writes there what does not fit."""
    service, made = SERVICES[name], SERVICES["airflow-init"]["environment"]["TMPDIR"]
    assert service["environment"]["TMPDIR"] == service["environment"]["SPARK_LOCAL_DIRS"] == made
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    (cache,) = re.findall(r"HF_HOME=(\S+)", dockerfile)
    home = [v.split(":")[1] for v in service["volumes"] if v.startswith("llmops:")]
    assert home == [v.split(":")[1] for v in SERVICES["airflow-init"]["volumes"] if v.startswith("llmops:")]
    for folder, volumes in {
        made: home,
        cache: [v.split(":")[1] for v in service["volumes"] if v[-3:] != ":ro"],
    }.items():
        assert [volume for volume in volumes if folder.startswith(f"{volume}/")], folder
        assert not [mount for mount in service["tmpfs"] if f"{folder}/hub".startswith(mount.split(":")[0] + "/")], (
            folder
        )
    # the configuration says if the Hub is asked: an image that is offline could neither download nor push
    assert "HF_HUB_OFFLINE" not in dockerfile and "HF_HUB_OFFLINE" not in service["environment"]
