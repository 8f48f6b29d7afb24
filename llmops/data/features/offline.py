"""A DuckDB offline store for movable feature stores: relative paths start from the store's folder.

Feast loads it by its name in `feature_repo/feature_store.yaml`. Feast's own class resolves relative paths from the
working directory, so the registry would need absolute paths.
"""

import copy
from typing import Any

from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob


class ParquetOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The `offline_store` section of `feature_store.yaml`."""

    type: str = "llmops.data.features.offline.ParquetOfflineStore"


class ParquetOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB offline store, with relative paths resolved from the feature store's folder."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig, feature_views: list[FeatureView], *args: Any, **options: Any
    ) -> RetrievalJob:
        """Return the point-in-time join of an entity table with feature views."""
        resolved = [copy.copy(view) for view in feature_views]
        for view in resolved:
            view.batch_source = _resolve(config, view.batch_source)
        return DuckDBOfflineStore.get_historical_features(config, resolved, *args, **options)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **options: Any
    ) -> RetrievalJob:
        """Return the newest row per entity, for `feast materialize`."""
        return DuckDBOfflineStore.pull_latest_from_table_or_query(
            config, _resolve(config, data_source), *args, **options
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **options: Any
    ) -> RetrievalJob:
        """Return all rows of a time range."""
        return DuckDBOfflineStore.pull_all_from_table_or_query(config, _resolve(config, data_source), *args, **options)


def _resolve(config: RepoConfig, source: Any) -> Any:
    """Return a copy of a file source with its path resolved from the store's folder; other sources unchanged."""
    if not isinstance(source, FileSource):
        return source
    uri = FileSource.get_uri_for_file_path(config.repo_path, source.path)
    resolved = FileSource.from_proto(source.to_proto())
    resolved.file_options.uri = uri
    return resolved
