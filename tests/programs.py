"""Programs that only some tests need. A test that needs one is skipped where it is missing; in CI that is a failure.

`python3 tests/programs.py` prints the Debian packages of those that are missing here. With names of programs, it fails
unless all of these are here.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

#: Program → the Debian package that has it.
PROGRAMS = {
    "chromium": "chromium",
    "curl": "curl",
    "docker-compose": "docker-compose",
    "initdb": "postgresql",
    "kustomize": "kustomize",
    "redis-server": "redis-server",
    "tesseract": "tesseract-ocr",
}
#: The same of those that run containers, which no test of `make test-all` needs.
CONTAINERS = {
    "aardvark-dns": "aardvark-dns",
    "catatonit": "catatonit",
    "nft": "nftables",
    "podman": "podman",
    "runc": "runc",
}
OTHER_NAMES = {"chromium": ("chromium-browser", "google-chrome")}
#: Where Debian keeps programs that are off the path.
PLACES = {"aardvark-dns": "/usr/lib/podman", "initdb": "/usr/lib/postgresql/*/bin", "nft": "/usr/sbin"}


def find_program(name: str) -> str:
    """Return the path of a program, or an empty string if it is missing."""
    found = [shutil.which(known) for known in (name, *OTHER_NAMES.get(name, ()))]
    if name in PLACES:
        found += sorted(map(str, Path("/").glob(f"{PLACES[name][1:]}/{name}")))
    return next((path for path in found if path), "")


def require_program(name: str) -> str:
    """Return the path of a program of `PROGRAMS`, or skip the test that needs it."""
    import pytest  # what prints the list runs before anything is installed

    return find_program(name) or pytest.skip(f"needs {name} (Debian: apt-get install {PROGRAMS[name]})")


def main(names: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    known = PROGRAMS | CONTAINERS
    missing = [name for name in names or PROGRAMS if not find_program(name)]
    packages = " ".join(known[name] for name in missing)
    if not names:
        sys.stdout.write(f"{packages}\n")
    elif missing:
        sys.stderr.write(f"{', '.join(missing)}: missing here (Debian: apt-get install {packages})\n")
    return int(bool(names and missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
