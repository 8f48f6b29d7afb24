"""From a compiled panel of Kibana's Lens to the query that it asks Elasticsearch, and from the answer to rows.

Only what our panels use: a kind of column that is not here is an error, not left out. Columns are nested in their
order, as Kibana nests them; an `auto` interval is a day.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

MISSING = "(missing value)"  #: where a field is absent
Rows = list[tuple[Any, ...]]
METRICS = {"sum": "sum", "max": "max", "min": "min", "average": "avg", "unique_count": "cardinality"}


class Panel(NamedTuple):
    """A panel of a dashboard."""

    dashboard: str
    title: str
    index: str  #: the id of the data view
    state: dict[str, Any]

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Its columns, in their order."""
        (layer,) = self.state["datasourceStates"]["formBased"]["layers"].values()
        return [{"id": id, **layer["columns"][id]} for id in layer["columnOrder"]]


def panels(objects: list[dict[str, Any]]) -> list[Panel]:
    """All panels of the dashboards."""
    found = []
    for thing in objects:
        for panel in json.loads(thing["attributes"]["panelsJSON"]) if thing["type"] == "dashboard" else []:
            said = panel["embeddableConfig"]["attributes"]
            (view,) = said["references"]
            found.append(Panel(thing["id"], said["title"], view["id"], said["state"]))
    return found


def search(panel: Panel) -> dict[str, Any]:
    """The body of the search that a panel asks."""
    assert panel.state["filters"] == []
    return {"size": 0, "query": _query(panel.state["query"]), "aggs": _aggregations(panel.columns)}


def _query(said: dict[str, Any]) -> dict[str, Any]:
    if not said["query"]:
        return {"match_all": {}}
    assert said["language"] == "lucene", said
    return {"query_string": {"query": said["query"], "analyze_wildcard": True}}


def _aggregations(columns: list[dict[str, Any]]) -> dict[str, Any]:
    if columns and columns[0]["isBucketed"]:
        first, *rest = columns
        within = _aggregations(rest)
        if first["operationType"] == "terms":  # what it is sorted by is counted here, too
            sorting = [column for column in rest if column["id"] == first["params"]["orderBy"]["columnId"]]
            within |= _aggregations(sorting)
        return {first["id"]: {**_bucket(first, rest), "aggs": within}}
    return {column["id"]: _metric(column) for column in columns if column["operationType"] != "count"}


def _bucket(column: dict[str, Any], rest: list[dict[str, Any]]) -> dict[str, Any]:
    kind, params, field = column["operationType"], column["params"], column.get("sourceField")
    if kind == "date_histogram":
        return {"date_histogram": {"field": field, "fixed_interval": "1d", "min_doc_count": 1}}
    if kind == "filters":
        return {"filters": {"filters": {f["label"]: _query(f["input"]) for f in params["filters"]}}}
    assert kind == "terms" and not params["include"] and not params["exclude"] and "secondaryFields" not in params, kind
    assert params["orderBy"]["type"] == "column"
    (by,) = (other for other in rest if other["id"] == params["orderBy"]["columnId"])
    terms = {"field": field, "size": params["size"], "order": [{_path(by): params["orderDirection"]}, {"_key": "asc"}]}
    return {"terms": terms | ({"missing": MISSING} if params["missingBucket"] else {})}


def _path(by: dict[str, Any]) -> str:
    if by["operationType"] == "count":
        return "_count"
    percent = {"median": 50, "percentile": by.get("params", {}).get("percentile")}.get(by["operationType"])
    return f"{by['id']}.{percent}" if percent else str(by["id"])


def _metric(column: dict[str, Any]) -> dict[str, Any]:
    kind, field = column["operationType"], column["sourceField"]
    assert "filter" not in column, column
    if kind in ("percentile", "median"):
        percent = column["params"]["percentile"] if kind == "percentile" else 50
        return {"percentiles": {"field": field, "percents": [percent]}}
    return {METRICS[kind]: {"field": field}}


def rows(panel: Panel, answer: dict[str, Any]) -> Rows:
    """What a panel shows: the keys of its buckets, then its figures."""
    return list(_rows(panel.columns, {**answer["aggregations"], "doc_count": answer["hits"]["total"]["value"]}, ()))


def _rows(columns: list[dict[str, Any]], found: dict[str, Any], keys: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if columns and columns[0]["isBucketed"]:
        buckets = found[columns[0]["id"]]["buckets"]
        named = [{"key": key, **b} for key, b in buckets.items()] if isinstance(buckets, dict) else buckets
        for bucket in named:
            key = bucket.get("key_as_string", bucket["key"])
            if bucket["doc_count"]:
                yield from _rows(columns[1:], bucket, (*keys, key[:10] if columns[0]["dataType"] == "date" else key))
        return
    yield (*keys, *(_figure(column, found) for column in columns))


def _figure(column: dict[str, Any], found: dict[str, Any]) -> Any:
    if column["operationType"] == "count":
        return found["doc_count"]
    said = found[column["id"]]
    return next(iter(said["values"].values())) if "values" in said else said["value"]
