"""A reader of events in Elasticsearch (8.19 and 9), from the data streams `logs-<dataset>-default`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.events.datasets import FEEDBACK, SERVING
from llmops.events.elasticsearch_client import READER_LOGINS, get_stream_name, make_client, read_login
from llmops.events.figures.requests import (
    PERCENTILE_SHARES,
    Percentiles,
    Stats,
    Summary,
    classify_status,
    count_steps,
    make_version_sort_key,
)
from llmops.events.times import format_timestamp
from llmops.frame.errors import EventsUnavailable

PAGE_SIZE = 5000  #: events per request; a server returns at most 10,000
IDS_PER_QUERY = 1000  #: ids per query
MAX_VERSIONS, MAX_STATUSES, MAX_ERRORS, MAX_PATHS = 200, 60, 50, 20  #: buckets of each
STATUS_FIELD = "http.response.status_code"
TIME_FIELDS = {"latency": "event.duration", "first_token": "llmops.time_to_first_token", "queue": "llmops.queue_time"}
SUM_FIELDS = {
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "duration": "event.duration",
}


class ElasticsearchReader:
    """Events in Elasticsearch. See `Reader`. Percentiles are Elasticsearch's own (t-digest)."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str, environ: Mapping[str, str], ca_file: Path | None = None) -> ElasticsearchReader:
        """Return a reader of the server at `url`; it sends nothing yet.

        Credentials come from `ELASTICSEARCH_READER_API_KEY`, or `ELASTICSEARCH_READER_USER` and
        `ELASTICSEARCH_READER_PASSWORD`. If they are not set, those of the sink count (without `READER_`).
        """
        return cls(make_client(url, read_login(environ, *READER_LOGINS), ca_file))

    def find(
        self, dataset: str, since: str = "", until: str = "~", limit: int = -1, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """See `Reader`."""
        order = "desc" if newest_first else "asc"
        yield from self._read_hits(dataset, [_make_window_query(since, until)], True, order, limit)

    def select(self, dataset: str, fields: Sequence[str], since: str = "", until: str = "~") -> list[tuple[Any, ...]]:
        """See `Reader`."""
        hits = self._read_hits(dataset, [_make_window_query(since, until)], list(fields))
        return [tuple(hit.get(field) for field in fields) for hit in hits]

    def summarize(self, since: datetime, until: datetime, step: timedelta | None = None) -> Summary:
        """See `Reader`."""
        aggs: dict[str, Any] = {
            **_STATS_AGGREGATIONS,
            "versions": _make_terms_aggregation("llmops.model.version", MAX_VERSIONS, _STATS_AGGREGATIONS),
        }
        if step:
            size, start = step // timedelta(milliseconds=1), _convert_to_milliseconds(since)
            histogram = {"field": "@timestamp", "fixed_interval": f"{size}ms", "offset": f"{start % size}ms"}
            aggs["series"] = {"date_histogram": {**histogram, "min_doc_count": 1}, "aggs": _STATS_AGGREGATIONS}
        with _convert_errors():
            answer = self._client.search(
                index=get_stream_name(SERVING),
                ignore_unavailable=True,
                size=0,
                query=_make_window_query(format_timestamp(since), format_timestamp(until)),
                aggs=aggs,
            )
        aggregations = answer.get("aggregations", _NO_AGGREGATIONS)
        series = [Stats()] * count_steps(since, until, step)
        if step:
            for bucket in aggregations.get("series", {"buckets": []})["buckets"]:
                series[(int(bucket["key"]) - start) // size] = _read_stats(bucket)
        versions = {str(bucket["key"]): _read_stats(bucket) for bucket in aggregations["versions"]["buckets"]}
        named = {name: versions[name] for name in sorted(versions, key=make_version_sort_key) if name}
        return Summary(_read_stats(aggregations), named, series)

    def count_by_path(self, since: datetime, until: datetime) -> dict[str, tuple[int, int]]:
        """See `Reader`."""
        failed = {"failed": {"filter": {"range": {STATUS_FIELD: {"gte": 500}}}}}
        window = _make_window_query(format_timestamp(since), format_timestamp(until))
        refused = {"range": {STATUS_FIELD: {"gte": 400, "lt": 500}}}
        with _convert_errors():
            answer = self._client.search(
                index=get_stream_name(SERVING),
                ignore_unavailable=True,
                size=0,
                query={"bool": {"filter": [window, {"range": {STATUS_FIELD: {"gt": 0}}}], "must_not": [refused]}},
                aggs={"paths": _make_terms_aggregation("url.path", MAX_PATHS, failed, missing="")},
            )
        buckets = answer.get("aggregations", {"paths": {"buckets": []}})["paths"]["buckets"]
        return {str(one["key"]): (int(one["doc_count"]), int(one["failed"]["doc_count"])) for one in buckets}

    def count_ratings(self, since: datetime, until: datetime) -> dict[str, dict[str, int]]:
        """See `Reader`."""
        fields = ("http.request.id", "llmops.key.prefix", "llmops.feedback.rating")
        rated = {
            (id, key): rating for id, key, rating in self.select(FEEDBACK, fields, format_timestamp(since)) if rating
        }
        ids, versions = sorted({id for id, _ in rated if id}), dict[str, str]()
        for start in range(0, len(ids), IDS_PER_QUERY):
            by_id = {"terms": {"http.request.id": ids[start : start + IDS_PER_QUERY]}}
            window = _make_window_query(format_timestamp(since), format_timestamp(until))
            for hit in self._read_hits(SERVING, [window, by_id], ["http.request.id", "llmops.model.version"]):
                versions[hit["http.request.id"]] = hit.get("llmops.model.version") or ""
        ratings_by_version: dict[str, dict[str, int]] = {}
        for (id, _), rating in rated.items():
            if version := versions.get(id):
                counts = ratings_by_version.setdefault(version, {})
                counts[rating] = counts.get(rating, 0) + 1
        return ratings_by_version

    def _read_hits(
        self, dataset: str, filters: list[dict[str, Any]], source: bool | list[str], order: str = "asc", limit: int = -1
    ) -> Iterator[dict[str, Any]]:
        """Yield the `_source` of matching events, page by page, from one snapshot."""
        sort = [
            {"@timestamp": {"order": order, "unmapped_type": "date"}},
            {"event.id": {"order": order, "unmapped_type": "keyword"}},
        ]
        with _convert_errors():
            pit = self._client.open_point_in_time(
                index=get_stream_name(dataset), keep_alive="2m", ignore_unavailable=True
            )["id"]
            try:
                after: list[Any] | None = None
                while limit:
                    size = PAGE_SIZE if limit < 0 else min(PAGE_SIZE, limit)
                    page = self._client.search(
                        pit={"id": pit, "keep_alive": "2m"}, query={"bool": {"filter": filters}}, sort=sort, size=size,
                        source=source, track_total_hits=False, **({"search_after": after} if after else {}),
                    )  # fmt: skip
                    pit, hits = page["pit_id"], page["hits"]["hits"]
                    for hit in hits:
                        yield hit["_source"]
                    if len(hits) < size:
                        return
                    after, limit = hits[-1]["sort"], limit - len(hits) if limit > 0 else limit
            finally:
                self._client.close_point_in_time(id=pit)


@contextmanager
def _convert_errors() -> Iterator[None]:
    from elasticsearch import ApiError, TransportError

    try:
        yield
    except (ApiError, TransportError) as error:
        message = f"Events cannot be read from Elasticsearch ({error})."
        raise EventsUnavailable(message, "Elasticsearch") from error


def _make_window_query(since: str, until: str) -> dict[str, Any]:
    bounds = {**({"gte": since} if since else {}), **({"lt": until} if until != "~" else {})}
    return {"range": {"@timestamp": bounds}} if bounds else {"match_all": {}}


def _make_terms_aggregation(
    field: str, size: int, aggs: dict[str, Any] | None = None, missing: Any = None
) -> dict[str, Any]:
    terms = {"field": field, "size": size, **({} if missing is None else {"missing": missing})}
    return {"terms": terms, **({"aggs": aggs} if aggs else {})}


#: Elasticsearch's name → ours
_PERCENTILE_NAMES = {f"{100 * share:.1f}": name for name, share in PERCENTILE_SHARES.items()}
_STATS_AGGREGATIONS: dict[str, Any] = {
    "statuses": _make_terms_aggregation(
        STATUS_FIELD,
        MAX_STATUSES,
        {
            "errors": _make_terms_aggregation("error.type", MAX_ERRORS, missing=""),
            **{name: {"sum": {"field": field}} for name, field in SUM_FIELDS.items()},
        },
        missing=0,
    ),
    "answered": {
        "filter": {"range": {STATUS_FIELD: {"lt": 400}}},
        "aggs": {
            name: {"percentiles": {"field": field, "percents": [100 * share for share in PERCENTILE_SHARES.values()]}}
            for name, field in TIME_FIELDS.items()
        },
    },
}
_NO_AGGREGATIONS: dict[str, Any] = {"statuses": {"buckets": []}, "answered": {}, "versions": {"buckets": []}}


def _read_stats(bucket: Mapping[str, Any]) -> Stats:
    outcomes, errors, sums = Counter[str](), Counter[str](), Counter[str]()
    for status in bucket["statuses"]["buckets"]:
        outcome = classify_status(int(status["key"]))
        outcomes[outcome] += status["doc_count"]
        sums.update({"input": status["input"]["value"], "output": status["output"]["value"]})
        if outcome == "answered":
            sums.update({"answered": status["output"]["value"], "duration": status["duration"]["value"]})
        else:
            for error in status["errors"]["buckets"]:
                errors[f"{status['key']} {error['key']}".strip()] += error["doc_count"]
    latency, first_token, queue = (_read_percentiles(bucket["answered"].get(name)) for name in TIME_FIELDS)
    return Stats(
        requests=outcomes.total(),
        **outcomes,
        input_tokens=int(sums["input"]),
        output_tokens=int(sums["output"]),
        answer_tokens=int(sums["answered"]),
        seconds=sums["duration"] / 1e9,
        latency_ms=latency,
        first_token_ms=first_token,
        queue_ms=queue,
        errors=dict(errors.most_common()),
    )


def _read_percentiles(percentiles: Mapping[str, Any] | None) -> Percentiles:
    values = percentiles["values"] if percentiles else {}
    return {name: None if values.get(key) is None else values[key] / 1e6 for key, name in _PERCENTILE_NAMES.items()}


def _convert_to_milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
