"""Podman, for the tests that build images and start containers: as root, with `runc`.

`PYTHON_IMAGE` names another base image than the one that the Dockerfiles pin, where that cannot be pulled. Packages
are found as pip finds them here.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

LIMITS = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=90000:90000")


def podman(*arguments: str | Path, **options: Any) -> str:
    """Run podman, and return what it prints."""
    environ = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    done = subprocess.run(["podman", *arguments], env=environ, text=True, capture_output=True, **options)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def build(dockerfile: str, tag: str, *more: str, base: str = "", context: Path = ROOT) -> str:
    """Build an image by a Dockerfile of this project, on `base` or `PYTHON_IMAGE`, and return its tag."""
    base = base or os.environ.get("PYTHON_IMAGE", "")
    links = os.environ.get("PIP_FIND_LINKS", "")
    given = [f"--build-arg=PYTHON={base}"] if base else []
    given += [f"--env=PIP_FIND_LINKS={links}", f"--build-arg=TORCH_INDEX=file://{links.split()[0]}"] if links else []
    paths = ["/etc/pip.conf", "/etc/ssl/certs", *links.split()]
    mounted = [f"--volume={path}:{path}:ro" for path in paths if Path(path).exists()]
    how = ["--network=host", "--isolation=chroot", "--format=docker", *LIMITS, *given, *mounted, *more]
    podman("build", *how, "--file", ROOT / dockerfile, "--tag", tag, context)
    return tag


def make_base_image(folder: Path) -> str:
    """Return `PYTHON_IMAGE`, or an image of Debian 12, whose own Python is 3.11, that debootstrap makes in `folder`."""
    if given := os.environ.get("PYTHON_IMAGE"):
        return given
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap, or PYTHON_IMAGE: the name of an image with Python 3.11 on Debian 12")
    packages = "ca-certificates,python3,python3-venv,python3-pip,python-is-python3"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder], check=True)
    archive = folder.with_suffix(".tar")
    subprocess.run(["tar", "--create", "--file", archive, "--directory", folder, "."], check=True)
    podman("import", archive, "localhost/llmops-test-python")
    archive.unlink()
    shutil.rmtree(folder)
    return "localhost/llmops-test-python"
