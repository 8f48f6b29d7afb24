"""Feast's DuckDB offline store for a feature store that can be moved: relative paths start from its folder.

Feast loads it by the name in `feature_repo/feature_store.yaml`. Feast's own takes a relative path as one from the
working directory, so that the registry would have to hold the absolute path of each artifact's Parquet file.
"""

from __future__ import annotations

import copy
from typing import Any

from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob


class ParquetOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The `offline_store` section of `feature_store.yaml`."""

    type: str = "llmops.features.offline.ParquetOfflineStore"


class ParquetOfflineStore(DuckDBOfflineStore):
    """Reads as its base does, but takes a relative path from the folder of the feature store."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig, feature_views: list[FeatureView], *args: Any, **options: Any
    ) -> RetrievalJob:
        """The point-in-time join of an entity table with feature views."""
        placed = [copy.copy(view) for view in feature_views]
        for view in placed:
            view.batch_source = _placed(config, view.batch_source)
        return DuckDBOfflineStore.get_historical_features(config, placed, *args, **options)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **options: Any
    ) -> RetrievalJob:
        """The newest row per entity, as `feast materialize` copies it to the online store."""
        return DuckDBOfflineStore.pull_latest_from_table_or_query(
            config, _placed(config, data_source), *args, **options
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **options: Any
    ) -> RetrievalJob:
        """All rows of a time range."""
        return DuckDBOfflineStore.pull_all_from_table_or_query(config, _placed(config, data_source), *args, **options)


def _placed(config: RepoConfig, source: Any) -> Any:
    """A copy of a file source whose path starts from the folder of the feature store; others as they are."""
    if not isinstance(source, FileSource):
        return source
    where = FileSource.get_uri_for_file_path(config.repo_path, source.path)
    placed = FileSource.from_proto(source.to_proto())
    placed.file_options.uri = where
    return placed
