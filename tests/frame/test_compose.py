"""What Docker Compose needs before it starts: the secrets, and what the host lacks, each with its remedy."""

import resource
import socket
import stat
from pathlib import Path

import pytest

from llmops.frame.compose import check_container, check_host, list_secrets, main, read_env, write_secrets

COMPOSE = """
  a: ${REDIS_PASSWORD:?openssl rand -hex 24}
  b: ${AIRFLOW_FERNET_KEY:?openssl rand -base64 32 | tr '+/' '-_'}
  c: ${REDIS_PASSWORD:?openssl rand -hex 24} ${HF_TOKEN:-}
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    return tmp_path


def test_secrets_are_written_once_and_for_their_owner_alone(root: Path) -> None:
    (root / ".env").write_text("# mine\nHF_TOKEN=hf_x\n")
    write_secrets(root)
    made = read_env(root / ".env")
    assert len(made["REDIS_PASSWORD"]) == 48 and len(made["AIRFLOW_FERNET_KEY"]) == 44 and made["HF_TOKEN"] == "hf_x"
    assert stat.S_IMODE((root / ".env").stat().st_mode) == 0o600
    assert "0 new, 2 as they were" in write_secrets(root)
    assert read_env(root / ".env") == made and (root / ".env").read_text().startswith("# mine\n")
    assert [path.name for path in root.glob(".env*")] == [".env"]


def test_one_secret_is_replaced_unless_something_is_encrypted_with_it(root: Path) -> None:
    write_secrets(root)
    old = read_env(root / ".env")
    write_secrets(root, "REDIS_PASSWORD")
    new = read_env(root / ".env")
    assert {name for name in old if old[name] != new[name]} == {"REDIS_PASSWORD"}
    with pytest.raises(ValueError, match="rotate-fernet-key"):
        write_secrets(root, "AIRFLOW_FERNET_KEY")
    with pytest.raises(ValueError, match="none of the secrets AIRFLOW_FERNET_KEY, REDIS_PASSWORD"):
        write_secrets(root, "HF_TOKEN")
    assert read_env(root / ".env") == new


def test_the_file_of_this_project_gets_all_that_it_asks_for() -> None:
    commands = set(list_secrets((ROOT / "docker-compose.yml").read_text()).values())
    assert commands == {*(f"openssl rand -hex {n}" for n in (12, 24, 32)), "openssl rand -base64 32 | tr '+/' '-_'"}


def test_missing_secrets_and_taken_ports_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmops.frame.compose.PORTS", {})
    (secrets,) = check_host(root, ["cpu"], is_running=True)
    assert not secrets.ok and "AIRFLOW_FERNET_KEY, REDIS_PASSWORD" in secrets.detail
    write_secrets(root)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("llmops.frame.compose.PORTS", {"serving": server.getsockname()[1]})
        secrets, port = check_host(root, ["cpu"], is_running=False)
        assert secrets.ok and not port.ok and "serving needs it" in port.remedy
        assert all(check.ok for check in check_host(root, ["cpu"], is_running=True))
    (root / ".env").chmod(0o644)
    assert "chmod 600" in check_host(root, [], is_running=True)[1].remedy


@pytest.mark.parametrize(
    ("profiles", "cpus", "kib", "maps", "wrong"),
    [
        (["cpu"], 0, 16 << 20, 65530, set()),
        (["cpu"], 0, 4 << 20, 65530, {"memory"}),
        (["cpu"], 3.5, 16 << 20, 65530, {"cores"}),
        (["gpu"], 0, 32 << 20, 65530, {"cores"}),
        (["gpu"], 2, 32 << 20, 65530, set()),
        (["cpu", "elk"], 0, 8 << 20, 262144, {"memory"}),
        (["cpu", "elk"], 0, 16 << 20, 65530, {"vm.max_map_count"}),
    ],
)
def test_a_container_tells_what_the_host_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: list[str], cpus: float, kib: int, maps: int,
    wrong: set[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "meminfo").write_text(f"MemTotal:       {kib} kB\nMemFree: 1 kB\n")
    (tmp_path / "sys/vm/max_map_count").write_text(f"{maps}\n")
    checks = check_container([], profiles, cpus, tmp_path)
    assert {check.name for check in checks if not check.ok} == wrong
    assert all(check.remedy for check in checks)


def test_a_low_hard_limit_of_open_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, enough in ((1024, False), (20_000, True), (resource.RLIM_INFINITY, True)):
        monkeypatch.setattr("resource.getrlimit", lambda _, limit=limit: (1024, limit))
        (check,) = [check for check in check_container([], ["elk"]) if check.name == "open files"]
        assert check.ok == enough and "daemon.json" in check.remedy


def test_a_full_disk_and_a_wrong_owner_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmops.frame.compose.DISK_GIB", 1e9)
    monkeypatch.setattr("os.access", lambda *_: False)
    disk, owner = check_container([tmp_path], [])[2:]
    assert not disk.ok and "GiB free" in disk.detail
    assert not owner.ok and "belongs to user" in owner.detail and "chown" in owner.remedy


def test_the_command_refuses_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["secrets", "--rotate", "NO_SUCH"]) == 1
    assert "is none of the secrets" in capsys.readouterr().err
