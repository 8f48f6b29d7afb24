"""Airflow's API server on SQLite: its requests do not wait for each other until SQLite's time is over.

The app is a small one with Airflow's own session and audit log, in a process of its own.
"""

from llmops.config import load
from llmops.pipeline import stack

from .conftest import python

REQUESTS = """
import json, threading
import airflow.settings
airflow.settings.initialize()  # imports `airflow_local_settings`
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import get_user
from airflow.api_fastapi.logging.decorators import action_logging
from airflow.models.log import Log
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

Log.metadata.create_all(airflow.settings.engine, tables=[Log.__table__])
written, answered = threading.Event(), threading.Event()
app = FastAPI()
app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="ada", role="admin")

@app.post("/slow", dependencies=[Depends(action_logging("slow"))])
def slow(session: SessionDep):
    session.add(Log(event="of the slow request"))
    session.flush()  # holds SQLite's lock from here until its end, which is after the quick one's
    written.set()
    answered.wait()

@app.post("/quick", dependencies=[Depends(action_logging("quick"))])
def quick(): ...

with TestClient(app, raise_server_exceptions=False) as client:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(client.post("/slow").status_code))
    thread.start()
    written.wait()
    codes.append(client.post("/quick").status_code)
    answered.set()
    thread.join()
import airflow_local_settings
airflow_local_settings.audit_writer.shutdown()
with create_session() as session:
    events = sorted(log.event for log in session.query(Log))
print("RESULT" + json.dumps([codes, events]))
"""


def test_a_request_is_answered_while_another_writes(airflow_home: dict[str, str]) -> None:
    config = load(environ={"LLMOPS_HOME": airflow_home["LLMOPS_HOME"]})
    environ = stack.build_airflow_environment(config, 8123, airflow_home)
    connection = environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = connection.replace("timeout=60", "timeout=20")
    (config.home / "airflow").mkdir(parents=True)
    codes, events = python(REQUESTS, environ)
    assert codes == [200, 200]
    assert events == ["of the slow request", "quick", "slow"]  # none is lost
