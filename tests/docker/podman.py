"""Podman, for the tests that build images and start containers: as root, with `runc`.

`PYTHON_IMAGE` names another base image than the one that the Dockerfiles pin, where that cannot be pulled: Debian 13
with Python 3.11 in /usr/local. Packages are found as pip finds them here.
"""

import os
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .conftest import ROOT

#: A build asks for more open files and processes than some machines allow.
LIMITS = [
    f"--ulimit={name}={hard}:{hard}"
    for name, hard in (
        ("nofile", resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        ("nproc", resource.getrlimit(resource.RLIMIT_NPROC)[1]),
    )
]


def podman(*arguments: str | Path, environ: Mapping[str, str] = os.environ) -> str:
    """Run podman, and return what it prints."""
    environ = {**environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    done = subprocess.run(["podman", *arguments], env=environ, text=True, capture_output=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def build(dockerfile: str, tag: str, *more: str, context: Path = ROOT) -> str:
    """Build an image by a Dockerfile of this project, on `PYTHON_IMAGE` if it is set, and return its tag."""
    base, links = os.environ.get("PYTHON_IMAGE", ""), os.environ.get("PIP_FIND_LINKS", "")
    given = [f"--build-arg=PYTHON={base}"] if base else []
    given += [f"--env=PIP_FIND_LINKS={links}", f"--build-arg=TORCH_INDEX=file://{links.split()[0]}"] if links else []
    # A package may write beside the certificates while it is configured, so their folder is not mounted.
    paths = ["/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", *links.split()]
    mounted = [f"--volume={path}:{path}:ro" for path in paths if Path(path).exists()]
    how = ["--network=host", "--isolation=chroot", "--format=docker", *LIMITS, *given, *mounted, *more]
    podman("build", *how, "--file", ROOT / dockerfile, "--tag", tag, context)
    return tag
