"""What Docker Compose needs before it starts: secrets in `.env`, free ports, and room for all services.

`make secrets` and `make up` need this before anything is installed, so it runs with only the standard library:

    python3 -m llmops.frame.compose secrets [--rotate NAME]
    python3 -m llmops.frame.compose check

The service `doctor` checks what only a container sees: `llmops doctor --compose`.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import resource
import secrets
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from llmops import ROOT
from llmops.frame.doctor import GIB, Check, format_checks, is_free

DISK_GIB = 10.0  #: model versions, artifacts and events of some weeks
MEMORY_GIB = {"cpu": 7.0, "gpu": 16.0, "vllm": 16.0, "elk": 4.0}  #: profile → memory of its services
CPUS = {"cpu": 2.0, "gpu": 4.0, "vllm": 4.0}  #: profile → cores that its worker, and serving, may use each
PORTS = {"airflow": 8080, "serving": 8000}
ELK_PORTS = {"logstash": 8088, "kibana": 5601}
MIN_MAP_COUNT = 262_144  #: memory maps of a process that Elasticsearch asks for
MIN_OPEN_FILES = 8_192  #: Elasticsearch had 144 open as it began, and opens one for each part of an index

_ASKED = re.compile(r"\$\{(\w+):\?([^}]+)\}")  # a variable that the file needs, and the command that makes a value
_HEX = re.compile(r"openssl rand -hex (\d+)")
#: secret → why a new value alone would lock out, and what to do
_KEPT = {
    "POSTGRES_PASSWORD": "the database keeps the old one: run `ALTER ROLE airflow PASSWORD '…'` in it, then edit .env",
    "ELASTIC_PASSWORD": "Elasticsearch keeps the old one: run `bin/elasticsearch-reset-password -u elastic -i` in its "
    "container, then edit .env",
    "AIRFLOW_FERNET_KEY": "connections are encrypted with the old one: write `new,old` into .env, run "
    "`airflow rotate-fernet-key` in airflow-scheduler, then remove the old one",
    "KIBANA_ENCRYPTION_KEY": "Kibana's rules and connectors are encrypted with the old one: see "
    "xpack.encryptedSavedObjects.keyRotation in Kibana's guide",
}


def list_secrets(compose_text: str) -> dict[str, str]:
    """Return the variables that a compose file needs, each with the command that makes a value."""
    return dict(_ASKED.findall(compose_text))


def read_env(path: Path) -> dict[str, str]:
    """Return the variables of an `.env` file; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def write_secrets(root: Path, rotate: str = "") -> str:
    """Add each missing secret to `.env`, which only its owner may read. Return what was done.

    Args:
        root: folder of `docker-compose.yml` and `.env`.
        rotate: a secret that gets a new value. All others keep theirs.

    Raises:
        ValueError: if `rotate` is no secret, or if a new value alone would lock out.
    """
    asked, path = list_secrets((root / "docker-compose.yml").read_text(encoding="utf-8")), root / ".env"
    known = read_env(path)
    if rotate and rotate not in asked:
        raise ValueError(f"{rotate!r} is none of the secrets {', '.join(sorted(asked))}")
    if rotate in _KEPT and rotate in known:
        raise ValueError(f"{rotate} is not replaced: {_KEPT[rotate]}")
    new = {name: _make_secret(asked[name]) for name in sorted(asked) if name == rotate or not known.get(name)}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    kept_lines = [line for line in text.splitlines() if line.split("=", 1)[0].strip() not in new]
    temporary = path.with_name(".env.new")
    with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write("\n".join([*kept_lines, *(f"{name}={value}" for name, value in new.items())]) + "\n")
    temporary.replace(path)
    return f"{path}: {len(new)} new, {len(asked) - len(new)} as they were" + (
        "; run `make up` to use it" if rotate else ""
    )


def _make_secret(command: str) -> str:
    if found := _HEX.fullmatch(command):
        return secrets.token_hex(int(found[1]))
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def check_host(root: Path, profiles: Sequence[str], is_running: bool) -> list[Check]:
    """Check the secrets, and unless the services run already, the ports that they publish."""
    path = root / ".env"
    asked = list_secrets((root / "docker-compose.yml").read_text(encoding="utf-8"))
    missing = sorted(name for name in asked if not (os.environ.get(name) or read_env(path).get(name)))
    detail = f"missing in {path}: {', '.join(missing)}" if missing else f"{len(asked)} in {path}"
    checks = [Check("secrets", not missing, detail, "run `make secrets`")]
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        checks.append(Check("secrets", False, f"others may read {path}", f"run `chmod 600 {path}`"))
    ports = {} if is_running else {**PORTS, **(ELK_PORTS if "elk" in profiles else {})}
    for service, port in ports.items():
        is_open = is_free(port)
        remedy = f"stop the program that listens on it (`ss -ltnp 'sport = :{port}'` names it); {service} needs it"
        checks.append(Check(f"port {port}", is_open, "free" if is_open else "in use by another program", remedy))
    return checks


def check_container(
    folders: Sequence[Path], profiles: Sequence[str], cpus: float = 0.0, proc: Path = Path("/proc")
) -> list[Check]:
    """Check cores, memory, kernel, open files, and the mounted volumes, from within a container.

    Args:
        folders: where volumes are mounted.
        profiles: profiles that are started.
        cpus: cores that a service may use; 0 for what the profiles say.
        proc: the kernel's folder of processes.
    """
    cpus = cpus or max((CPUS.get(profile, 0.0) for profile in profiles), default=0.0)
    there = os.cpu_count() or 1
    remedy = f"use a host with {cpus:g} cores, or allow fewer with a line LLMOPS_CPUS={there} in .env"
    # Docker starts no service whose limit is higher.
    cores = Check("cores", there >= cpus, f"{there} on this host", remedy)
    total = int(re.findall(r"MemTotal:\s+(\d+) kB", (proc / "meminfo").read_text(encoding="ascii"))[0]) * 1024 / GIB
    needed = sum(MEMORY_GIB.get(profile, 0.0) for profile in profiles)
    remedy = f"{' and '.join(profiles)} need {needed:.0f} GiB: use a larger host, or leave a profile out"
    checks = [cores, Check("memory", total >= needed, f"{total:.1f} GiB on this host", remedy)]
    if "elk" in profiles:
        count = int((proc / "sys/vm/max_map_count").read_text(encoding="ascii"))
        remedy = f"on the host: `sysctl -w vm.max_map_count={MIN_MAP_COUNT}`, and a line in /etc/sysctl.d to keep it"
        checks.append(Check("vm.max_map_count", count >= MIN_MAP_COUNT, f"{count:,}", remedy))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        remedy = (
            f"raise the hard limit of open files to {MIN_OPEN_FILES:,} or more for the engine of the containers, as "
            "LimitNOFILE of its service, or default-ulimits in /etc/docker/daemon.json"
        )
        limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit
        checks.append(Check("open files", limit >= MIN_OPEN_FILES, f"a process may open {limit:,} files", remedy))
    for folder in folders:
        free = shutil.disk_usage(folder).free / GIB
        remedy = f"free {DISK_GIB:.0f} GiB on the disk of the volume, or move Docker's data root to another disk"
        checks.append(Check(f"disk of {folder}", free >= DISK_GIB, f"{free:.1f} GiB free", remedy))
        is_writable, owner = os.access(folder, os.W_OK), folder.stat().st_uid
        remedy = f"give the volume to user {os.getuid()}: `chown -R {os.getuid()} …` in a container of root"
        detail = f"user {os.getuid()} may write" if is_writable else f"it belongs to user {owner}"
        checks.append(Check(f"owner of {folder}", is_writable, detail, remedy))
    return checks


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m llmops.frame.compose", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("secrets").add_argument("--rotate", default="", metavar="NAME")
    commands.add_parser("check").add_argument("--running", action="store_true", help="the services run already")
    options = parser.parse_args(arguments)
    if options.command == "secrets":
        try:
            sys.stdout.write(write_secrets(ROOT, options.rotate) + "\n")
        except ValueError as error:
            sys.stderr.write(f"secrets: {error}\n")
            return 1
        return 0
    checks = check_host(ROOT, os.environ.get("COMPOSE_PROFILES", "").split(","), options.running)
    sys.stdout.write(format_checks(checks))
    return 0 if all(c.ok for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
