"""Rows of an SQL query, from any database that SQLAlchemy has a driver for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from llmops.data.readers.origin import Items, Origin, flatten
from llmops.errors import SourceError

log = logging.getLogger(__name__)

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET_KEY = re.compile(r"pass|secret|token|key|pwd", re.IGNORECASE)


def read(root: Path, origin: Origin, environ: Mapping[str, str] = os.environ) -> Items:
    """Yield one item per row of the source's query.

    `${VAR}` in the URL is read from `environ`; what it holds is never logged or stored. The query may use `:start` and
    `:end`, the first day of the data interval and the day after it. A relative SQLite file starts from `root`.

    Raises:
        SourceError: if the database cannot be reached or refuses the query. Half a result is no result, so unlike a bad
            row this fails the stage, which can be tried again.
    """
    name, query = origin.source.name, origin.source.query
    url = _url(origin, root, environ)
    day = date.fromisoformat(origin.interval)
    bounds = {"start": day, "end": day + timedelta(days=1)}
    if not re.search(r"\border\s+by\b", query, re.IGNORECASE):
        log.warning("source %s: the query has no ORDER BY, so its rows may be numbered differently next time.", name)
    try:
        statement = sa.text(query)
        used = {key: bounds[key] for key in statement.compile().params if key in bounds}
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            result = connection.execution_options(stream_results=True).execute(statement, used)
            columns = list(result.keys())
            origin.check(columns)
            for number, values in enumerate(result, start=1):
                yield origin.row(f"row {number}", flatten(dict(zip(columns, values, strict=True))))
    except (ImportError, NoSuchModuleError) as error:
        reason = _without_secrets(str(error), url)
        raise SourceError(
            f"Source {name}: {origin.location} needs the driver {url.drivername}, which is not installed ({reason})."
        ) from None
    except (SQLAlchemyError, ValueError) as error:
        cause = getattr(error, "orig", None) or error
        reason = _without_secrets(" ".join(str(cause).split("\n[SQL")[0].split()), url)
        raise SourceError(f"Source {name}: {origin.location}: {reason}") from None


def _url(origin: Origin, root: Path, environ: Mapping[str, str]) -> sa.URL:
    name, template = origin.source.name, origin.location
    userinfo_end = template.rfind("@")

    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise SourceError(
                f"Source {name}: the environment variable {match[1]}, which its location uses, is not set."
            )
        # Before the "@" a password's own "@" or "/" would be taken for the URL's.
        return quote(environ[match[1]], safe="") if match.end() <= userinfo_end else environ[match[1]]

    try:
        plain = sa.make_url(_VARIABLE.sub("", template)) if not _VARIABLE.fullmatch(template) else None
        url = sa.make_url(_VARIABLE.sub(value, template))
    except (ArgumentError, ValueError):
        raise SourceError(
            f"Source {name}: its location is no SQLAlchemy URL; write it as `sqlite:///shop.db` or "
            "`postgresql+psycopg://user:${DB_PASSWORD}@host/database`."
        ) from None
    if plain is not None and (plain.password or any(v and _SECRET_KEY.search(k) for k, v in plain.query.items())):
        raise SourceError(
            f"Source {name}: its location holds a password, which would be stored in the run's record; put it into an "
            "environment variable and write ${VAR} in its place."
        )
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return url
    file = root / url.database
    if not file.is_file():  # SQLite would make an empty one
        raise SourceError(f"Source {name}: there is no database file {url.database}; it is looked for in {root}.")
    return url.set(database=str(file))


def _without_secrets(text: str, url: sa.URL) -> str:
    secrets = [url.password] if isinstance(url.password, str) else []
    secrets += [str(value) for key, value in url.query.items() if _SECRET_KEY.search(key)]
    for secret in filter(None, secrets):
        for form in (secret, quote(secret, safe=""), quote(secret)):
            text = text.replace(form, "***")
    return text
