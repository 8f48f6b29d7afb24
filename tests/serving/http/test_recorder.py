"""Events that come together share a commit, and none is lost or said to be kept when it is not."""

import asyncio
from unittest.mock import Mock

import pytest

from llmops.events.spool import Spool
from serving.http import middleware
from serving.http.middleware import Recorder

pytestmark = pytest.mark.anyio


def read_spool(folder):
    with Spool(folder) as spool:
        return sorted(event["event.duration"] for event in spool.read("nobody")[1])


def record_all(one, numbers):
    recording = (one.record({"event.duration": n}) for n in numbers)
    return asyncio.gather(*recording, return_exceptions=True)


async def test_each_of_a_batch_is_told_that_it_is_lost_and_the_next_ones_are_kept(tmp_path, monkeypatch):
    one = Recorder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(middleware, "Spool", Mock(side_effect=OSError("No space left on device")))
        assert all(isinstance(result, OSError) for result in await record_all(one, range(5)))
    await record_all(one, range(50))
    assert read_spool(tmp_path) == list(range(50))  # all there once all have returned


async def test_whoever_is_cancelled_while_writing_loses_no_event_of_others(tmp_path):
    one = Recorder(tmp_path)
    tasks = [asyncio.create_task(one.record({"event.duration": n})) for n in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [None] * 4
    assert set(read_spool(tmp_path)) >= {1, 2, 3, 4}
