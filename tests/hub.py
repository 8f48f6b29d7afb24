"""A Hub that keeps repositories as the real one does and fails when it is told to."""

import base64
import copy
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_" + "x1" * 17
LARGE = (".safetensors", ".bin", ".parquet")  #: what `.gitattributes` of a new repository says

Fail = Callable[[int, str, str], str]  #: number of the request, its method and path → how it fails; "" if it does not


class Repo:
    """Commits with their trees, branches and tags of one repository."""

    def __init__(self) -> None:
        self.commits: dict[str, tuple[str, dict[str, bytes]]] = {}  #: commit → its parent and its files
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.add("main", {".gitattributes": b"*.safetensors filter=lfs"})

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        parent = self.branches.get(branch, "")
        commit = hashlib.sha1(f"{parent} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = (parent, dict(files))
        self.branches[branch] = commit
        return commit

    def commit(self, revision: str) -> str:
        return self.tags.get(revision) or self.branches.get(revision) or (revision if revision in self.commits else "")

    def files(self, revision: str) -> dict[str, bytes]:
        """The files there, but the Hub's own."""
        found = self.commits[self.commit(revision)][1]
        return {path: content for path, content in found.items() if path != ".gitattributes"}

    def history(self, branch: str) -> list[str]:
        found, commit = [], self.branches[branch]
        while commit:
            found.append(commit)
            commit = self.commits[commit][0]
        return found


class FakeHub:
    """What the server holds, and what it was asked."""

    def __init__(self) -> None:
        self.url = "http://hub.test"
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.fail: Fail = lambda number, method, path: ""
        self.lock = threading.RLock()

    def snapshot(self) -> Any:
        return copy.deepcopy((self.repos, self.large))

    def restore(self, snapshot: Any) -> None:
        """Hold that again, healthy."""
        with self.lock:
            self.repos, self.large = copy.deepcopy(snapshot)
            self.asked.clear()
            self.fail = lambda number, method, path: ""

    def ask(
        self, method: str, path: str, authorization: str | None, body: bytes
    ) -> str | tuple[int, bytes, dict[str, str]]:
        """One request refused, answered or failed; a word if no answer comes."""
        with self.lock:
            number = len(self.asked)
            self.asked.append((method, path))
            how = self.fail(number, method, path)
            if how == "kill":
                raise KeyboardInterrupt
            if how == "reset":
                return how
            if how.isdecimal():
                after = {"Retry-After": "1"} if how == "429" else {}
                return int(how), b'{"error": "no such luck"}', after
            if not path.startswith("/large/") and authorization != f"Bearer {TOKEN}":  # those are signed instead
                return 401, b'{"error": "Invalid username or password."}', {}
            status, value, headers = self.answer(method, path, body)
        if how == "lost":  # it was done, and the one who asked will not know
            return how
        return status, value if isinstance(value, bytes) else json.dumps(value).encode(), headers

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON value or bytes, and headers."""
        for pattern, function in ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return function(self, body, *map(unquote, found.groups()))
        return 404, {"error": f"no such route: {method} {path}"}, {}


def missing(code: str) -> tuple[int, Any, dict[str, str]]:
    return 404, {"error": code}, {"X-Error-Code": code}


def create(hub: FakeHub, body: bytes) -> Any:
    asked = json.loads(body)
    repo = f"{asked['organization']}/{asked['name']}"
    hub.created.append(asked)
    if repo in hub.repos:
        return 409, {"error": "You already created this model repo", "url": f"{hub.url}/{repo}"}, {}
    hub.repos[repo] = Repo()
    return 200, {"url": f"{hub.url}/{repo}"}, {}


def refs(hub: FakeHub, body: bytes, repo: str) -> Any:
    if repo not in hub.repos:
        return missing("RepoNotFound")
    known = hub.repos[repo]

    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in names.items()]

    return 200, {"branches": listed("heads", known.branches), "tags": listed("tags", known.tags), "converts": []}, {}


def tree(hub: FakeHub, body: bytes, repo: str, revision: str) -> Any:
    known = hub.repos[repo]
    if not known.commit(revision):
        return missing("RevisionNotFound")
    return 200, [entry(p, content) for p, content in known.commits[known.commit(revision)][1].items()], {}


def entry(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
    if path.endswith(LARGE) and content:
        digest = hashlib.sha256(content).hexdigest()
        found |= {"oid": f"pointer of {digest}", "lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}
    return found


def tag(hub: FakeHub, body: bytes, repo: str, revision: str) -> Any:
    known, name = hub.repos[repo], json.loads(body)["tag"]
    if name in known.tags:
        return 409, {"error": "Tag reference exists already"}, {}
    known.tags[name] = known.commit(revision)
    return 200, {}, {}


def preupload(hub: FakeHub, body: bytes, repo: str, revision: str) -> Any:
    known = hub.repos[repo]
    if revision not in known.branches:
        return missing("RevisionNotFound")
    there = known.commits[known.branches[revision]][1]

    def mode(file: dict[str, Any]) -> dict[str, Any]:
        path = file["path"]
        found = entry(path, there[path]) if path in there else {}
        oid = found.get("lfs", found).get("oid")
        how = "lfs" if path.endswith(LARGE) else "regular"
        return {"path": path, "uploadMode": how, "shouldIgnore": False, "oid": oid}

    return 200, {"files": [mode(file) for file in json.loads(body)["files"]]}, {}


def batch(hub: FakeHub, body: bytes, repo: str) -> Any:
    objects = []
    for asked in json.loads(body)["objects"]:
        actions = {"upload": {"href": f"{hub.url}/large/{asked['oid']}?X-Signature=s3cr3t"}}
        objects.append(asked if asked["oid"] in hub.large else {**asked, "actions": actions})
    return 200, {"objects": objects, "transfer": "basic"}, {}


def upload(hub: FakeHub, body: bytes, digest: str) -> Any:
    if hashlib.sha256(body).hexdigest() != digest:
        return 400, {"error": "content does not match"}, {}
    hub.large[digest] = body
    return 200, {}, {}


def commit(hub: FakeHub, body: bytes, repo: str, branch: str) -> Any:
    known = hub.repos[repo]
    header, *lines = [json.loads(line) for line in body.splitlines() if line]
    if branch not in known.branches:
        return missing("RevisionNotFound")
    if header["value"].get("parentCommit", known.branches[branch]) != known.branches[branch]:
        return 412, {"error": "A commit has happened since. Please refresh and try again."}, {}
    files = dict(known.commits[known.branches[branch]][1])
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.large:
                return 400, {"error": f"{value['path']} has not been uploaded"}, {}
            files[value["path"]] = hub.large[value["oid"]]
        elif files.pop(value["path"], None) is None:
            return missing("EntryNotFound")
    made = known.add(branch, files)
    return 200, {"commitUrl": f"{hub.url}/{repo}/commit/{made}", "commitOid": made}, {}


def info(hub: FakeHub, body: bytes, repo: str, revision: str = "main") -> Any:
    known = hub.repos.get(repo)
    if known is None:
        return missing("RepoNotFound")
    if not known.commit(revision):
        return missing("RevisionNotFound")
    at = known.commit(revision)
    return 200, {"id": repo, "sha": at, "siblings": [{"rfilename": path} for path in known.commits[at][1]]}, {}


def resolve(hub: FakeHub, body: bytes, repo: str, revision: str, path: str) -> Any:
    known = hub.repos.get(repo)
    if known is None:
        return missing("RepoNotFound")
    at = known.commit(revision)
    if not at:
        return missing("RevisionNotFound")
    files = known.commits[at][1]
    if path not in files:
        return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": at}
    found = entry(path, files[path])
    headers = {"X-Repo-Commit": at, "ETag": f'"{found["oid"]}"'}
    if "lfs" in found:
        headers |= {"X-Linked-Etag": f'"{found["lfs"]["oid"]}"', "X-Linked-Size": str(found["size"])}
    return 200, files[path], headers


NAME = r"((?:datasets/)?[^/]+/[^/]+)"
API = rf"/api/(?:models/|(?=datasets/)){NAME}"  #: a model `me/bot`, or a data set, which is kept as `datasets/me/data`
ROUTES: list[tuple[str, Callable[..., Any]]] = [
    (r"POST /api/repos/create", create),
    (r"POST /api/validate-yaml", lambda hub, body: (200, {"errors": [], "warnings": []}, {})),
    (rf"GET {API}/refs", refs),
    (rf"GET {API}/tree/([^/]+)", tree),
    (rf"POST {API}/tag/([^/]+)", tag),
    (rf"POST {API}/preupload/([^/]+)", preupload),
    (rf"POST {API}/commit/([^/]+)", commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", batch),
    (r"PUT /large/(\w+)", upload),
    (rf"(?:GET|HEAD) {API}/revision/([^/]+)", info),
    (rf"GET {API}", info),
    (rf"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", resolve),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake Hub as the one to push to, reached without a socket by a client that tries once more, and waits for
    nothing, instead of five times."""
    import httpx2
    from huggingface_hub import close_session, constants, set_client_factory
    from huggingface_hub.utils import _http, http_backoff

    fake = FakeHub()

    def answered(request: Any) -> Any:
        if not str(request.url).startswith(fake.url):
            raise httpx2.ConnectError("connection refused", request=request)
        path = urlsplit(request.url.raw_path.decode()).path
        answer = fake.ask(request.method, path, request.headers.get("Authorization"), request.content)
        if isinstance(answer, str):
            raise httpx2.ReadError(answer, request=request)
        status, content, headers = answer
        return httpx2.Response(status, headers=headers, content=content)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setitem(http_backoff.__kwdefaults__, "max_retries", 1)
    monkeypatch.setattr(_http, "time", Mock(wraps=time, sleep=lambda seconds: None))
    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(answered), follow_redirects=True))
    yield fake
    set_client_factory(_http.default_client_factory)
    close_session()
