"""Peers' environments, made by the benchmarks that need them, and the arms that could not be measured.

An environment lies in `benchmarks/.environments/<peer>` and is made at first use. One that is `beside` the project's
own sees the packages of that, so that all arms run on the same versions, and holds what is missing there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = Path(__file__).parent / ".environments"
_REFUSED: dict[str, str] = {}  #: peers that could not be installed, and why: no arm tries it again


class ArmFailedError(RuntimeError):
    """An arm did not start or a peer could not be installed; the text says why, its last line most closely."""


@contextmanager
def attempted(arm: str, failed: dict[str, str]) -> Iterator[None]:
    """A block that measures `arm`; if that fails, the reason is printed and noted in `failed`, and the rest goes on."""
    try:
        yield
    except ArmFailedError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        failed[arm] = lines[0].rstrip(":") if len(lines) == 1 else f"{lines[0].rstrip(':')}: {lines[-1]}"
        print(f"  {arm} is left out: {error}", file=sys.stderr, flush=True)


def ended(status: int) -> str:
    """What a status that is not 0 tells by itself: the signal that ended a process, which has no last words then."""
    if status >= 0:
        return ""
    return f", ended by {signal.Signals(-status).name}" + (" (out of memory?)" if status == -signal.SIGKILL else "")


def in_process(
    file: str,
    *arguments: str | Path,
    python: str | Path = sys.executable,
    environ: Mapping[str, str] | None = None,
    watch: Callable[[subprocess.Popen[str]], None] = lambda process: None,
) -> Any:
    """What the benchmark in `file`, told `arguments`, prints as JSON in its last line; it runs in a process of its own.

    Args:
        python: a peer's, if not the project's own; the project's packages are found there too.
        watch: gets the process when it has started.

    Raises:
        ArmFailedError: with the end of its errors, if it fails.
    """
    process = subprocess.Popen(
        [str(python), file, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
    )
    watch(process)
    output, errors = process.communicate()
    if process.returncode:
        raise ArmFailedError(f"It failed{ended(process.returncode)}:\n{errors[-3000:]}")
    return json.loads(output.splitlines()[-1])


@dataclass(frozen=True)
class Peer:
    """An environment of its own: what is installed in it, and what is left out."""

    name: str
    packages: Sequence[str]  #: the peer itself first
    without: Sequence[str] = ()  #: dependencies of the first package that are not installed, or as `packages` says
    beside: bool = False  #: sees the project's packages; others come in the versions of constraints.txt
    project: bool = False  #: with this project in it, without what the pipeline needs
    build: Mapping[str, str] = field(default_factory=dict)  #: environment variables for packages that are compiled

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return ENVIRONMENTS / self.name

    def python(self) -> Path:
        """Its Python; made at first use, and again when what belongs in it has changed.

        Raises:
            ArmFailedError: with the end of pip's output; at once, if that was so before in this process.
        """
        if self.name in _REFUSED:
            raise ArmFailedError(_REFUSED[self.name])
        try:
            return self._made()
        except ArmFailedError as error:
            _REFUSED[self.name] = str(error)
            raise

    def _made(self) -> Path:
        python, done = self.folder / "bin" / "python", self.folder / "done"
        belongs = json.dumps([asdict(self), _project_packages() if self.beside else []])
        if done.is_file() and done.read_text() == belongs:
            return python
        print(f"  making an environment for {self.name} …", file=sys.stderr, flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            venv.create(self.folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ArmFailedError(f"{self.name} gets no environment: {error}") from error
        pinned: list[str | Path] = []
        if self.beside:
            paths = "".join(f"import site; site.addsitedir({path!r})\n" for path in _project_packages())
            (self._packages() / "project.pth").write_text(paths)
            pinned = ["-c", ROOT / "constraints.txt"]
        packages = list(self.packages)
        if self.without:
            self._pip("install", "--no-deps", packages.pop(0))
            packages += self._list_dependencies()
        self._pip("install", *pinned, *packages)
        if self.project:
            self._pip("install", "--no-deps", "--editable", ROOT)
        done.write_text(belongs)
        return python

    def version(self) -> dict[str, str]:
        """The peer's name on the registry and its version; nothing where it is not installed."""
        if not (self.folder / "done").is_file():
            return {}
        return {one.name: one.version for one in self._find_installed()}

    def _find_installed(self) -> Iterable[Distribution]:
        """The first package, where it is installed."""
        name = re.match(r"[\w.-]+", self.packages[0])[0]
        return Distribution.discover(path=[str(self._packages())], name=name)

    def _list_dependencies(self) -> list[str]:
        """What the first package needs, but for `without`."""
        needed = [line for one in self._find_installed() for line in one.requires or ()]
        return [line for line in needed if Requirement(line).name not in self.without]

    def _packages(self) -> Path:
        base = {"base": str(self.folder), "platbase": str(self.folder)}
        return Path(sysconfig.get_path("purelib", "venv", base))

    def _pip(self, verb: str, *arguments: str | Path) -> None:
        command = [self.folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", verb, "--quiet"]
        environ = {**os.environ, **self.build}
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environ)
        if done.returncode:
            why = f"{self.name} cannot be installed{ended(done.returncode)}"
            raise ArmFailedError(f"{why}:\n{(done.stdout + done.stderr)[-3000:]}")


def _project_packages() -> list[str]:
    return sorted({sysconfig.get_path(kind) for kind in ("purelib", "platlib")})
