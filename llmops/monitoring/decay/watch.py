"""Decay watch: measures the champion's quality daily on the frozen test, on people's corrections, and in its requests.

It emits one event per figure and day, with the slope over the last 90 days and its interval. If the whole interval is
on the bad side of 0, the quality decays.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.config import Config
from llmops.config.model import LOWER_IS_BETTER
from llmops.events.datasets import DECAY
from llmops.events.events import emit_all, format_timestamp
from llmops.events.reader import Reader, make_reader
from llmops.frame.errors import ConfigError
from llmops.monitoring.decay.items import read_fixed_items, read_fresh_items
from llmops.monitoring.decay.live_rates import measure_live_rates
from llmops.monitoring.decay.measurement import digest_items, find_documents, measure_version
from llmops.monitoring.decay.slope import estimate_slope
from llmops.release.registry.registry import registry_of
from llmops.release.registry.version import Version

SERIES_DAYS = 90  #: length of a series
MIN_FRESH_ITEMS = 10  #: fewer corrections are not measured
_LESS_IS_BETTER = LOWER_IS_BETTER | {"refusals"}


@dataclass(frozen=True, slots=True)
class DailyFigure:
    """One figure of a day."""

    set: str  #: `fixed`, `fresh` or `live`
    metric: str
    value: float
    low: float
    high: float
    items: int
    content: str = ""  #: digest of the items, and if documents were read; another content makes another series


def watch_decay(config: Config, now: datetime | None = None) -> dict[str, Any]:
    """Measure the champion today and emit one event per figure. A repetition on the same day emits the same events.

    Live rates are of the last whole day (UTC). Events that wait in the spool are not seen: call `drain_spool` first.

    Returns:
        `state`: `measured`, `no champion` or `no reader`; `version`, `day`; `figures` as JSON values with slopes;
        `decayed`: names of the figures that get worse.
    """
    now = now or datetime.now(UTC)
    champion = registry_of(config).champion()
    if champion is None:
        return {"state": "no champion", "why": "nothing is served yet"}
    try:
        reader = make_reader(config)
    except ConfigError as error:
        return {"state": "no reader", "why": str(error).rstrip(".")}
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    earlier = list(reader.find(DECAY, format_timestamp(day - timedelta(days=SERIES_DAYS - 1)), format_timestamp(day)))
    figures = [
        _add_slope(figure, [event for event in earlier if event.get("llmops.model.version") == champion.name], day)
        for figure in _measure_figures(config, reader, champion, day)
    ]
    emit_all(config.events, DECAY, [_build_decay_event(config, champion, now, day, figure) for figure in figures])
    decayed = [f"{figure['metric']} ({figure['set']})" for figure in figures if figure["decayed"]]
    return {
        "state": "measured",
        "version": champion.name,
        "day": day.date().isoformat(),
        "figures": figures,
        "decayed": decayed,
    }


def _measure_figures(config: Config, reader: Reader, version: Version, day: datetime) -> Iterator[DailyFigure]:
    for name, items in (("fixed", read_fixed_items(version)), ("fresh", read_fresh_items(config))):
        if len(items) >= (MIN_FRESH_ITEMS if name == "fresh" else 1):
            # no digest for corrections: they change every day, and their series must continue
            content = digest_items(items) if name == "fixed" else ""
            if find_documents(config):  # answers without documents are another series
                content = f"{content} with documents".lstrip()
            for metric, measurement in measure_version(config, version, items).items():
                yield DailyFigure(name, metric, *measurement, items=len(items), content=content)
    for metric, rate in measure_live_rates(reader, version.name, day - timedelta(days=1), day).items():
        yield DailyFigure("live", metric, rate.rate, rate.low, rate.high, items=rate.total)


def _add_slope(figure: DailyFigure, earlier: list[dict[str, Any]], day: datetime) -> dict[str, Any]:
    series: dict[int, float] = {}
    for event in earlier:
        same = all(
            (event.get(f"llmops.decay.{name}") or "") == getattr(figure, name) for name in ("set", "metric", "content")
        )
        value = event.get("llmops.decay.value")
        if same and value is not None:
            series[(datetime.fromisoformat(event["@timestamp"]) - day).days] = value
    series[0] = figure.value
    days = sorted(series)
    slope = estimate_slope(days, [series[n] for n in days])
    values = {name: getattr(figure, name) for name in figure.__slots__}
    if slope is None:
        return {**values, "days": len(days), "slope": None, "slope_low": None, "slope_high": None, "decayed": False}
    worse = slope.low > 0 if figure.metric in _LESS_IS_BETTER else slope.high < 0
    slopes = {"slope": slope.value, "slope_low": slope.low, "slope_high": slope.high}
    return {**values, "days": len(days), **slopes, "decayed": worse}


def _build_decay_event(
    config: Config, version: Version, now: datetime, day: datetime, figure: Mapping[str, Any]
) -> dict[str, Any]:
    identity = "|".join(
        [DECAY, config.release.name, version.name, figure["set"], figure["metric"], format_timestamp(day)]
    )
    return {
        "@timestamp": format_timestamp(now),
        "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
        "event.action": "measure",
        "event.outcome": "success",
        "message": describe_figure(figure),
        "llmops.model.name": config.release.name,
        "llmops.model.version": version.name,
        **{f"llmops.decay.{name}": value for name, value in figure.items()},
    }


def describe_figure(figure: Mapping[str, Any]) -> str:
    """Return a figure in words."""
    bounds = f"{figure['value']:.4g} ({figure['low']:.4g} to {figure['high']:.4g})"
    level = f"{figure['metric']} on {figure['items']} {figure['set']} items is {bounds}"
    if figure["slope"] is None:
        return f"{level}; {figure['days']} days are too few for a slope."
    change = f"{figure['slope']:+.3g} a day ({figure['slope_low']:+.3g} to {figure['slope_high']:+.3g})"
    return f"{level}, {change} over {figure['days']} days{'; it decays' if figure['decayed'] else ''}."
