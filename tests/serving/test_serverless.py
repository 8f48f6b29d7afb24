"""An instance of a serverless platform: what a request left is at the sinks when it is answered, whoever else asks."""

from __future__ import annotations

import asyncio
import threading

from llmops.config import Config
from llmops.monitoring.datasets import AUDIT
from llmops.monitoring.sinks.local import LocalStore
from serving import serverless
from serving.serverless import Instance, bring


def test_who_comes_while_events_are_shipped_shares_the_next_shipping(tmp_path, monkeypatch):
    begun, go_on, shipments = threading.Event(), threading.Event(), []

    def hangs(folder, sinks):
        shipments.append(1)
        begun.set()
        go_on.wait(20)
        return {}

    monkeypatch.setattr(serverless, "ship", hangs)

    async def callers():
        instance = Instance(Config(home=tmp_path))
        await instance.start()
        first = asyncio.create_task(instance.ship())
        await asyncio.to_thread(begun.wait, 20)
        others = [asyncio.create_task(instance.ship()) for _ in range(20)]
        await asyncio.sleep(0)
        others[0].cancel()  # one that leaves takes nobody's shipping away
        await asyncio.sleep(0.05)
        assert len(shipments) == 1 and not any(other.done() for other in others[1:])
        go_on.set()
        await asyncio.gather(first, *others[1:])
        await instance.close()

    asyncio.run(callers())
    assert len(shipments) == 2


def test_a_shipping_that_fails_costs_no_answer_and_the_next_one_brings_its_events(tmp_path, monkeypatch, caplog):
    async def callers():
        instance = Instance(Config(home=tmp_path))
        await instance.start()
        instance.app.state.parts.audit.note_limits_store("lost")
        with monkeypatch.context() as patched:
            patched.setattr(serverless, "ship", lambda *_: 1 / 0)
            await instance.ship()
        assert "ZeroDivisionError" in caplog.text
        await instance.ship()
        assert len(list(LocalStore(tmp_path / "events").find(AUDIT))) == 1
        await instance.close()

    asyncio.run(callers())


def test_the_images_database_is_brought_once_and_not_where_another_one_is_named(tmp_path):
    (tmp_path / "image.db").write_bytes(b"the image's")
    config = Config(home=tmp_path / "home")
    bring(tmp_path / "image.db", config)
    (config.home / "state.db").write_bytes(b"written since")
    bring(tmp_path / "image.db", config)
    assert (config.home / "state.db").read_bytes() == b"written since"
    elsewhere = Config(home=tmp_path / "other", state={"url": "postgresql+psycopg://x@y/z"})
    bring(tmp_path / "image.db", elsewhere)
    assert not (tmp_path / "other").exists()
