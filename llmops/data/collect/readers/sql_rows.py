"""Rows of an SQL query, from any database with an SQLAlchemy driver."""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from llmops.config import Source
from llmops.data.collect.readers.origin import Items, Origin, flatten_record, format_value
from llmops.frame.errors import SourceError, SourceUnavailableError
from llmops.frame.transient import is_database_down
from llmops.frame.variables import VARIABLE, fill_variables

log = logging.getLogger(__name__)

_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SECRET_KEY = re.compile(r"pass|secret|token|key|pwd", re.IGNORECASE)


def read(root: Path, origin: Origin, environ: Mapping[str, str] = os.environ, after: date | None = None) -> Items:
    """Yield one item per row of the source's query.

    `${VAR}` in the URL is read from `environ` and never logged or stored. The query may use `:start` and `:end`, the
    first day of the data interval and the day after it. A relative SQLite file starts from `root`.

    With a `cursor`, the rows are those with a cursor before `:end`, and on or after the day `after` if given. Only the
    newest row of a key is yielded, with the key as position. Days begin at midnight, in UTC on PostgreSQL. Rows without
    a key, or without a cursor if `after` is None, are quarantined.

    Raises:
        SourceError: if the database cannot be reached or refuses the query. This fails the stage, which can be tried
            again, because half a result would be wrong.
    """
    source, query = origin.source, origin.source.query
    name = source.name
    url = _build_url(origin, root, environ)
    day = date.fromisoformat(origin.interval)
    bounds = {"start": day, "end": day + timedelta(days=1), "after": after}
    if not source.cursor and not re.search(r"\border\s+by\b", query, re.IGNORECASE):
        log.warning("source %s: the query has no ORDER BY, so its rows may be numbered differently next time.", name)
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        # Read-only, and in one time zone, whatever the server's and this machine's are.
        with engine.connect().execution_options(postgresql_readonly=True) as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TIME ZONE 'UTC'")
            statement = build_period_query(source, after) if source.cursor else sa.text(query)
            parameters = {key: bounds[key] for key in statement.compile().params if key in bounds}
            result = connection.execute(statement, parameters, execution_options={"stream_results": True})
            columns = list(result.keys())
            _check_columns(columns, origin)
            rows = (dict(zip(columns, values, strict=True)) for values in result)
            if source.cursor:
                yield from _keep_newest_rows(rows, origin)
            else:
                for number, row in enumerate(rows, start=1):
                    yield origin.convert_row(f"row {number}", flatten_record(row))
    except (ImportError, NoSuchModuleError) as error:
        reason = _mask_secrets(str(error), url)
        raise SourceError(
            f"Source {name}: {origin.location} needs the driver {url.drivername}, which is not installed ({reason})."
        ) from None
    except (SQLAlchemyError, ValueError) as error:
        cause = getattr(error, "orig", None) or error
        reason = _mask_secrets(" ".join(str(cause).split("\n[SQL")[0].split()), url)
        kind = SourceUnavailableError if is_database_down(error) else SourceError
        raise kind(f"Source {name}: {origin.location}: {reason}") from None


def build_period_query(source: Source, after: date | None) -> sa.Select[Any]:
    """Return the query for the rows of a period of days, sorted by key, for any dialect.

    Without `after`, the query includes all days and rows without a cursor.
    """
    every_day = sa.text(f"\n{source.query.rstrip().rstrip(';')}\n").columns().subquery("every_day")
    cursor: sa.ColumnClause[Any] = sa.column(source.cursor)
    before = cursor < sa.bindparam("end")
    days = before & (cursor >= sa.bindparam("after")) if after else before | cursor.is_(None)
    order = [*map(sa.column, source.key), cursor]
    return sa.select(sa.text("*")).select_from(every_day).where(days).order_by(*order)


def _keep_newest_rows(rows: Iterable[dict[str, Any]], origin: Origin) -> Items:
    """Yield the newest row of each key, and every row without a key or cursor."""
    source = origin.source
    number = 0
    for key, group in groupby(rows, lambda row: [format_value(row[name]) for name in source.key]):
        position = f"key {key[0]}" if len(key) == 1 else f"key {json.dumps(key, ensure_ascii=False)}"
        dated_rows: list[dict[str, Any]] = []
        for row in group:
            number += 1
            if missing := [name for name in (*source.key, source.cursor) if row[name] is None]:
                detail = f"no {missing[0]}, which `{'cursor' if missing == [source.cursor] else 'key'}` names"
                row_position = position if missing == [source.cursor] else f"row {number}"
                yield origin.make_dropped(
                    row_position, "malformed", detail, json.dumps(flatten_record(row), ensure_ascii=False)
                )
            elif not isinstance(row[source.cursor], date) and not _ISO_DAY.match(format_value(row[source.cursor])):
                raise SourceError(
                    f"Source {source.name}: the cursor {source.cursor} of {position} is "
                    f"{format_value(row[source.cursor])!r}, no date or time as in 2026-01-31 or "
                    "2026-01-31 12:00:00, so days cannot be told apart."
                )
            else:
                dated_rows.append(row)
        if dated_rows:
            # If two were changed at the same time, the content decides, because the database's order may vary.
            newest = max(dated_rows, key=lambda row: (row[source.cursor], json.dumps(flatten_record(row))))
            yield origin.convert_row(position, flatten_record(newest))


def _check_columns(columns: list[str], origin: Origin) -> None:
    source = origin.source
    if duplicate := next((name for name in columns if columns.count(name) > 1), None):
        raise SourceError(f"Source {source.name}: its query has two columns named {duplicate!r}; rename one with AS.")
    for key, names in (("cursor", [source.cursor] if source.cursor else []), ("key", source.key)):
        if missing := next((name for name in names if name not in columns), None):
            raise SourceError(
                f"Source {source.name}: its query has no column {missing!r}, which `{key}` names; "
                f"it has {', '.join(columns)}."
            )
    nested = [name for name in (*source.fields.values(), *source.where) if name.partition(".")[0] in columns]
    origin.check_columns([*columns, *nested])


def _build_url(origin: Origin, root: Path, environ: Mapping[str, str]) -> sa.URL:
    name, template = origin.source.name, origin.location

    def get_variable(variable: str) -> str:
        if variable not in environ:
            raise SourceError(
                f"Source {name}: the environment variable {variable}, which its location uses, is not set."
            )
        return environ[variable]

    try:
        bare_url = sa.make_url(VARIABLE.sub("", template)) if not VARIABLE.fullmatch(template) else None
        url = sa.make_url(fill_variables(template, get_variable))
    except (ArgumentError, ValueError):
        raise SourceError(
            f"Source {name}: its location is no SQLAlchemy URL; write it as `sqlite:///shop.db` or "
            "`postgresql+psycopg://user:${DB_PASSWORD}@host/database`."
        ) from None
    if bare_url is not None and (
        bare_url.password or any(v and _SECRET_KEY.search(k) for k, v in bare_url.query.items())
    ):
        raise SourceError(
            f"Source {name}: its location holds a password, which would be stored in the run's record; put it into an "
            "environment variable and write ${VAR} in its place."
        )
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return url
    file = root / url.database
    if not file.is_file():  # SQLite would create an empty one
        raise SourceError(f"Source {name}: there is no database file {url.database}; it is looked for in {root}.")
    return url.set(database=str(file))


def _mask_secrets(text: str, url: sa.URL) -> str:
    secrets = [url.password] if isinstance(url.password, str) else []
    secrets += [str(value) for key, value in url.query.items() if _SECRET_KEY.search(key)]
    for secret in filter(None, secrets):
        for spelling in (secret, quote(secret, safe=""), quote(secret)):
            text = text.replace(spelling, "***")
    return text
