"""The Feast feature stores of features artifacts and model versions: how they are declared and opened.

A feature store is a folder with a `feature_store.yaml`, for Feast's own commands (`feast -c <folder> …`), and a
`registry.db`, unless `features.registry` names a database. Paths in both are relative to the folder, so that it can be
moved with its home. Secrets are written as ${NAME} and read from the environment when a store is opened.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import yaml

from llmops import ROOT
from llmops.config import Features
from llmops.frame.errors import ArtifactError, ConfigError, LlmopsError
from llmops.frame.records import make_content_id
from llmops.frame.transient import convert_to_transient

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

SETTINGS = "feature_store.yaml"
PARQUET = "features.parquet"  #: file of a features artifact that Feast reads
VIEW = "llm_training_features"
TRAINING_SERVICE = "llm_training"  #: feature service of training, offline
SERVING_SERVICE = "llm_serving"  #: feature service of serving, online; each model version has its own copy


def hash_repository(config: Features) -> str:
    """Return a hash of the feature repository's files, for the fingerprint of a features artifact."""
    files = sorted(p for p in find_repository(config).iterdir() if p.suffix in (".py", ".yaml"))
    return make_content_id(*(part for p in files for part in (p.name, p.read_text(encoding="utf-8"))))


def find_repository(config: Features) -> Path:
    """Return the folder of the feature repository.

    Raises:
        ConfigError: if it has no `feature_store.yaml`.
    """
    folder = ROOT / config.repo
    if not (folder / SETTINGS).is_file():
        raise ConfigError(f"features.repo is no Feast feature repository: {folder} has no {SETTINGS}.")
    return folder


def make_service_name(model: str, version: str) -> str:
    """Return the name of a model version's feature service, e.g. `support_bot_v1`."""
    return re.sub(r"\W", "_", f"{model}_{version}")


def declare(config: Features, project: str, out: Path) -> FeatureStore:
    """Make `out` a feature store with all declarations of the feature repository.

    Raises:
        ArtifactError: if Feast refuses the declarations.
        TransientError: if a database does not answer or is locked, or a disk is full.
        ConfigError: if there is no repository, or a variable of the environment is missing.
    """
    repo = find_repository(config)
    template = "".join(
        line
        for line in (repo / SETTINGS).read_text(encoding="utf-8").splitlines(keepends=True)
        if not line.startswith("#")
    )
    registry = {"registry_type": "sql", "path": config.registry} if config.registry else "registry.db"
    variables = {
        "LLMOPS_PROJECT": project,
        "LLMOPS_REGISTRY": json.dumps(registry),
        "LLMOPS_ONLINE": json.dumps(_make_online_settings(config, out.absolute())),
    }
    (out / SETTINGS).write_text(Template(template).safe_substitute(variables), encoding="utf-8")
    config.store.mkdir(parents=True, exist_ok=True)
    try:
        store = open_store(out)
        store.apply(_load_declarations(repo))  # `feast apply` would also delete the versions' services
    except LlmopsError:
        raise
    except Exception as error:
        raise convert_to_transient(error) or ArtifactError(
            f"Feast refuses the declarations in {repo}: {error}"
        ) from error
    return store


def declare_version(features: Path, service: str, tags: Mapping[str, str], out: Path, final: Path) -> None:
    """Make `out` a feature store for serving one model version, with its own feature service.

    The view and the service's features are those of the features artifact that the version was trained on.

    `final` is the later name of `out`; paths in `feature_store.yaml` are relative to it.

    Raises:
        ArtifactError: if `features` is not a feature store.
    """
    from feast import FeatureService, FeatureStore

    trained_store = open_store(features)
    view = trained_store.get_feature_view(VIEW)
    serving_features = trained_store.get_feature_service(SERVING_SERVICE).feature_view_projections[0].features
    declared = FeatureService(name=service, features=[view[[f.name for f in serving_features]]], tags=dict(tags))
    text = (features / SETTINGS).read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    online = settings["online_store"]
    database = os.path.normpath(features.resolve() / online["path"]) if "path" in online else ""
    if database:
        online["path"] = _make_relative(final.absolute(), Path(database), features.absolute().parents[2])
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    current = _parse_settings(text, out)
    if database:  # the file's relative path is not valid from `out`
        current.online_store.path = database
    FeatureStore(repo_path=str(out), config=current).apply(
        [*(trained_store.get_entity(e) for e in view.entities), view, declared]
    )


def open_store(folder: Path) -> FeatureStore:
    """Open the feature store in `folder`.

    Raises:
        ArtifactError: if there is none, or its registry cannot be read.
        TransientError: if another try may succeed, for example because a database does not answer.
        ConfigError: if it names a missing variable of the environment.
    """
    from feast import FeatureStore
    from sqlalchemy.exc import SQLAlchemyError

    store = FeatureStore(repo_path=str(folder), config=read_settings(folder))
    try:
        store.refresh_registry()
    except SQLAlchemyError as error:
        kind = type(convert_to_transient(error) or ArtifactError())
        raise kind(f"The Feast registry (features.registry) of {folder} cannot be read: {error}") from None
    return store


def read_settings(folder: Path) -> RepoConfig:
    """Return Feast's settings of the feature store in `folder`, declared or not.

    Raises:
        ArtifactError: if there is no feature store.
        ConfigError: if it names a missing variable of the environment.
    """
    try:
        return _parse_settings((folder / SETTINGS).read_text(encoding="utf-8"), folder)
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is no feature store: it has no {SETTINGS}; run `llmops run features`.") from None


def _parse_settings(text: str, folder: Path) -> RepoConfig:
    from feast import RepoConfig

    for name in re.findall(r"\$\{(\w+)\}", text):
        if name not in os.environ:
            raise ConfigError(f"{folder / SETTINGS} needs ${{{name}}}; set {name} in the environment.")
    return RepoConfig(**yaml.safe_load(os.path.expandvars(text)), repo_path=folder)


def _make_online_settings(config: Features, out: Path) -> dict[str, str]:
    if config.online == "sqlite":
        return {"type": "sqlite", "path": _make_relative(out, config.store.absolute() / "online.db", out.parents[2])}
    url = urlsplit(config.online)
    parts = {
        "db": url.path.strip("/") or "0",
        "username": unquote(url.username or ""),
        "password": url.password or "",
        "ssl": "true" if url.scheme == "rediss" else "",
    }
    options = [f"{name}={value}" for name, value in parts.items() if value]
    return {"type": "redis", "connection_string": ",".join([f"{url.hostname}:{url.port or 6379}", *options])}


def _make_relative(start: Path, target: Path, home: Path) -> str:
    """Return the path of `target` from the folder `start`: relative if both are in `home`, which may be moved.

    Symbolic links are resolved, because `..` behind a link leads elsewhere.
    """
    real_home, real_start, real_target = home.resolve(), start.resolve(), target.resolve()
    within = real_target.is_relative_to(real_home) and real_start.is_relative_to(real_home)
    return os.path.relpath(real_target, real_start) if within else str(target)


def _load_declarations(repo: Path) -> list[Any]:
    """Return all declarations of the repository's modules, which import each other by their bare names.

    Modules and search path of this process are restored afterwards.
    """
    from feast import Entity, FeatureService, FeatureView
    from feast.data_source import DataSource

    names = sorted(p.stem for p in repo.glob("*.py"))
    shadowed = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(repo))
    try:
        modules = [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(repo))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(shadowed)
    declared = (v for m in modules for v in vars(m).values())
    kinds = (Entity, DataSource, FeatureView, FeatureService)
    return list({id(v): v for v in declared if isinstance(v, kinds)}.values())
