"""Credentials of the stores and databases that data comes from or goes to. They are stored nowhere."""

import os
from collections.abc import Mapping
from typing import Any

from llmops.frame.errors import SourceError


def read_environment(connection: str, environ: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """Return the environment to read credentials from: `environ`, or the values of `connection`, one of Airflow's.

    The connection's parts are also in it as `CONNECTION_LOGIN`, `_PASSWORD`, `_HOST`, `_PORT` and `_SCHEMA`, so that a
    URL can name them, as in `postgresql+psycopg://${CONNECTION_LOGIN}:${CONNECTION_PASSWORD}@${CONNECTION_HOST}/shop`.

    Raises:
        SourceError: if Airflow does not know the connection.
    """
    if not connection:
        return environ
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowException

    try:
        found = Connection.get(connection)
    except AirflowException as error:
        raise SourceError(f"The Airflow connection {connection!r} cannot be read: {error}") from None
    extra: dict[str, Any] = found.extra_dejson
    values = {
        "CONNECTION_LOGIN": found.login,
        "CONNECTION_PASSWORD": found.password,
        "CONNECTION_HOST": found.host,
        "CONNECTION_PORT": found.port,
        "CONNECTION_SCHEMA": found.schema,
    }
    if found.conn_type == "aws":
        values |= {
            "AWS_ACCESS_KEY_ID": found.login,
            "AWS_SECRET_ACCESS_KEY": found.password,
            "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
            "AWS_DEFAULT_REGION": extra.get("region_name"),
            "AWS_ENDPOINT_URL": extra.get("endpoint_url"),
        }
    elif found.conn_type in ("wasb", "adls"):
        values |= {
            "AZURE_STORAGE_ACCOUNT_NAME": extra.get("account_name") or found.login,
            "AZURE_STORAGE_ACCOUNT_KEY": extra.get("account_key") or found.password,
            "AZURE_STORAGE_CONNECTION_STRING": extra.get("connection_string"),
            "AZURE_STORAGE_SAS_TOKEN": extra.get("sas_token"),
        }
    others = {name: value for name, value in environ.items() if not name.startswith(("AWS_", "AZURE_STORAGE_"))}
    return {**others, **{name: str(value) for name, value in values.items() if value}}


def make_filesystem_options(scheme: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of fsspec's filesystem for `scheme`, taken from `environ`.

    If a credential is not in `environ`, the filesystem's SDK looks in its usual places: profiles, the machine's role.
    """

    def read_variables(**names: str) -> dict[str, str]:
        return {option: environ[name] for option, name in names.items() if environ.get(name)}

    if scheme == "s3":
        region = read_variables(region_name="AWS_DEFAULT_REGION") | read_variables(region_name="AWS_REGION")
        endpoint = read_variables(endpoint_url="AWS_ENDPOINT_URL") | read_variables(endpoint_url="AWS_ENDPOINT_URL_S3")
        keys = read_variables(key="AWS_ACCESS_KEY_ID", secret="AWS_SECRET_ACCESS_KEY", token="AWS_SESSION_TOKEN")
        return {**keys, **endpoint, "client_kwargs": region}
    if scheme in ("abfs", "abfss", "az"):
        return read_variables(
            account_name="AZURE_STORAGE_ACCOUNT_NAME",
            account_key="AZURE_STORAGE_ACCOUNT_KEY",
            connection_string="AZURE_STORAGE_CONNECTION_STRING",
            sas_token="AZURE_STORAGE_SAS_TOKEN",
            client_id="AZURE_STORAGE_CLIENT_ID",
            client_secret="AZURE_STORAGE_CLIENT_SECRET",
            tenant_id="AZURE_STORAGE_TENANT_ID",
        )
    from aiohttp import ClientTimeout

    patient = ClientTimeout(sock_connect=30, sock_read=60)  # the default ends any request after five minutes
    # otherwise lengths and ranges would be of the compressed body
    return {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": {"timeout": patient}}
