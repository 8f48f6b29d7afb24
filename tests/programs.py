"""Programs that only some tests need. A test that needs one is skipped where it is missing; in CI that is a failure.

`python3 tests/programs.py` prints the Debian packages of those that are missing here.
"""

import shutil
import sys
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
OTHER_NAMES = {"chromium": ("chromium-browser", "google-chrome")}


def find_program(name: str) -> str:
    """Return the path of a program of `PROGRAMS`, or an empty string if it is missing."""
    found = [shutil.which(known) for known in (name, *OTHER_NAMES.get(name, ()))]
    if name == "initdb":  # Debian keeps the servers' programs off the path
        found += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    return next((path for path in found if path), "")


def require_program(name: str) -> str:
    """Return the path of a program, or skip the test that needs it."""
    import pytest  # what prints the list runs before anything is installed

    return find_program(name) or pytest.skip(f"needs {name} (Debian: apt-get install {PROGRAMS[name]})")


if __name__ == "__main__":
    sys.stdout.write(" ".join(package for name, package in PROGRAMS.items() if not find_program(name)) + "\n")
