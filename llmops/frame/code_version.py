"""Versions of our code and of libraries, as parts of fingerprints."""

import ast
import hashlib
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def compute_code_version(module: str) -> str:
    """Return 12 hex digits over the code of `module` and of every `llmops` module it imports, without comments.

    A change of the code thus makes new artifacts, without a version number to maintain. A module's data files (see
    `find_data_files`) count as its code. The configuration modules do not, because their values are in the fingerprint.
    """
    # The doctor's report on a machine changes no artifact.
    digest, seen, queue = hashlib.sha256(), {"llmops", "llmops.frame.doctor"}, [module]
    while queue:
        name = queue.pop()
        if name in seen or f"{name}.".startswith("llmops.config."):
            continue
        seen.add(name)
        path = _find_source(name)
        if path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        digest.update(name.encode() + _format_syntax(tree).encode())
        for data in find_data_files(path, tree):
            digest.update(data.name.encode() + data.read_bytes())
        found: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        queue += sorted(f for f in found if f.startswith("llmops."))
    return digest.hexdigest()[:12]


def find_data_files(module: Path, tree: ast.AST) -> list[Path]:
    """Return the data files of a module: with its name (`catalog.yaml` of `catalog.py`) or named in its code."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    others = (f for f in sorted(module.parent.iterdir()) if f.is_file() and f.suffix not in (".py", ".pyc"))
    return [f for f in others if f.stem == module.stem or {f.name, f.stem} & texts]


@cache
def get_library_version(name: str) -> str:
    """Return major and minor version of an installed package, without importing it; "absent" if not installed.

    A patch release is meant to compute the same, so it does not change fingerprints.
    """
    try:
        return ".".join(version(name).partition("+")[0].split(".")[:2])
    except PackageNotFoundError:
        return "absent"


def read_git_commit() -> str:
    """Return the commit of the running code, with `+` if the tree has changes; empty outside a checkout."""
    options: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changed else str(head)


def _format_syntax(node: Any) -> str:
    """Return syntax as text, the same in every supported Python.

    `ast.dump` differs: 3.12 gave functions and classes an empty list `type_params`, 3.13 omits empty lists, and 3.12
    ends `f"{a:{b}}"` with an empty text. A change of Python would have rebuilt all artifacts.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(_format_syntax, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, ast.JoinedStr):
        fields["values"] = [v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")]
    return f"{type(node).__name__}({', '.join(f'{name}={_format_syntax(value)}' for name, value in fields.items())})"


def _find_source(module: str) -> Path | None:
    base = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
