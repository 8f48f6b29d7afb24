"""Roll-ups: figures of the requests of each minute and each hour, counted when their events are stored.

A row belongs to one step of time, version, status and kind of error. It holds counts, tokens and histograms of times.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmops.events.figures import histogram
from llmops.events.figures.requests import Tally, Times, classify_status
from llmops.events.times import parse_epoch

MINUTE, HOUR = 60, 3600
MINUTE_DAYS = 4.0  #: retention of minutes: covers the dashboard's 24 hours and alert windows of 3 days
MAX_NUMBER = 10**15  #: largest number in an event: 11 days in nanoseconds

#: the fields that are read from an event
REQUEST_FIELDS = (
    "@timestamp", "llmops.model.version", "http.response.status_code", "error.type", "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens", "event.duration", "llmops.time_to_first_token", "llmops.queue_time",
)  # fmt: skip

TimeStep = tuple[int, int]  #: length and start of a step of time, seconds
RollupKey = tuple[str, int, str]  #: version, status, kind of error


def count_requests(db: sqlite3.Connection, events: Sequence[Mapping[str, Any]], now: float) -> None:
    """Count events of requests that are not counted yet, in the caller's transaction. `now` is in seconds."""
    recent = now - MINUTE_DAYS * 24 * HOUR
    groups: dict[tuple[TimeStep, RollupKey], Tally] = defaultdict(Tally)
    for event in events:
        values = [event.get(field) for field in REQUEST_FIELDS]
        if (moment := parse_epoch(values[0])) is None:
            continue
        key, tally = tally_request(values)
        for step in (MINUTE, HOUR) if moment >= recent else (HOUR,):
            groups[(step, int(moment // step * step)), key].add(tally)
    for ((length, start), (version, status, error)), tally in groups.items():
        row_key = (length, start, version, status, error)
        _add_stored_row(db, row_key, tally)
        db.execute(
            "INSERT OR REPLACE INTO rollups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *row_key,
                tally.counts.total(),
                tally.input_tokens,
                tally.output_tokens,
                tally.duration_ns,
                *(_pack_times(times) for times in tally.times),
            ),
        )


def read_tallies(
    db: sqlite3.Connection, length: int, since: int, until: int, first_start: int, size: int
) -> Iterator[tuple[int, str, Tally]]:
    """Yield (step number, version, tally) for the roll-ups of one `length` with `since <= start < until`.

    Steps have `size` seconds, numbered from `first_start`; the number is -1 if `size` is 0. All times are in seconds.
    """
    number = "max(0, (start - ?) / ?)" if size else "-1"
    where = "FROM rollups WHERE step = ? AND start >= ? AND start < ?"
    parameters = (*((first_start, size) if size else ()), length, since, until)
    tallies = dict[tuple[int, str], Tally]()
    rows = db.execute(
        f"SELECT {number} AS number, version, status, error, sum(requests), sum(input_tokens), sum(output_tokens), "
        f"sum(duration) {where} GROUP BY number, version, status, error",
        parameters,
    )
    for step_number, version, status, error, requests, tokens_in, tokens_out, duration in rows:
        tally = tallies.setdefault((step_number, version), Tally())
        tally.counts[status, error] = requests
        tally.input_tokens += tokens_in
        tally.output_tokens += tokens_out
        if classify_status(status) == "answered":
            tally.answer_tokens += tokens_out
            tally.duration_ns += duration
    rows = db.execute(f"SELECT {number}, version, latency, first_token, queue {where} AND latency != x''", parameters)
    for step_number, version, latency, first_token, queue in rows:
        times = tallies[step_number, version].times
        times[0].packed.append(latency)
        times[1].packed.append(first_token)
        times[2].packed.append(queue)
    for (step_number, version), tally in tallies.items():
        yield step_number, version, tally


def tally_request(values: Sequence[Any]) -> tuple[RollupKey, Tally]:
    """Return key and tally of one request from its `REQUEST_FIELDS`; a missing or non-numeric value counts as 0."""
    _, version, status, error, tokens_in, tokens_out, duration, first_token, queue = values
    status = _parse_number(status)
    answered = classify_status(status) == "answered"
    tally = Tally()
    tally.counts[status, str(error or "")] = 1
    tally.input_tokens, tally.output_tokens = _parse_number(tokens_in), _parse_number(tokens_out)
    if answered:
        tally.answer_tokens, tally.duration_ns = tally.output_tokens, _parse_number(duration)
        tally.times[0].exact.append(tally.duration_ns)
        for times, value in zip(tally.times[1:], (first_token, queue), strict=True):
            if value is not None:
                times.exact.append(_parse_number(value))
    return (str(version or ""), status, str(error or "")), tally


def _add_stored_row(db: sqlite3.Connection, row_key: tuple[int, int, str, int, str], tally: Tally) -> None:
    row = db.execute(
        "SELECT requests, input_tokens, output_tokens, duration, latency, first_token, queue FROM rollups "
        "WHERE step = ? AND start = ? AND version = ? AND status = ? AND error = ?",
        row_key,
    ).fetchone()
    if row:
        requests, tokens_in, tokens_out, duration, *packed = row
        tally.counts[row_key[3], row_key[4]] += requests
        tally.input_tokens += tokens_in
        tally.output_tokens += tokens_out
        tally.duration_ns += duration
        for times, blob in zip(tally.times, packed, strict=True):
            times.packed += [blob] if blob else []


def _pack_times(times: Times) -> bytes:
    return histogram.pack_counts(times.build_histogram()) if times.exact or times.packed else b""


def _parse_number(value: Any) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(min(max(value, 0), MAX_NUMBER))
    return 0
