"""Receivers by apprise against real ones: an HTTP server, an SMTP server with and without TLS."""

import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmops import cli
from llmops.config import Config, load
from llmops.events.datasets import ALERT
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import ConfigError, TransientError
from llmops.monitoring.alerts.breach import Breach, build_message
from llmops.monitoring.alerts.lifecycle import build_row
from llmops.monitoring.alerts.receivers import Receiver, make_receivers
from llmops.monitoring.alerts.threads import AlertThreads

EVIL = 'über\n<!channel> @here & "\u2028'
BREACH = Breach("spool", f"It waits, {EVIL}.", subject=EVIL, value=90.0, bound=15.0, details={"llmops.run": "r1"})


def make_receiver(tmp_path: Path, url: str, **environ: str) -> tuple[Receiver, Mapping[str, Any]]:
    config = Config(home=tmp_path, alerts={"receivers": [{"name": "mine", "url": url}]})
    return make_receivers(config, environ)[-1], build_message(
        config, build_row(BREACH, "0a", "2026-01-10T12:00:00.000Z"), "raised"
    )


def test_a_webhook_gets_all_fields_as_json_with_an_id_that_stays(hook: Any, tmp_path: Path) -> None:
    url = hook.url.replace("http", "json") + "/hooks/${TOKEN}/{alert}?+Authorization=Bearer ${KEY}&to=a@b"
    receiver, message = make_receiver(tmp_path, url, TOKEN="t0/p", KEY="k&y/+=")
    for _ in range(2):
        receiver.send(message)
    (path, headers, body), again = hook.got
    assert path == "/hooks/t0/p/0a" and headers["Authorization"] == "Bearer k&y/+="
    fields = json.loads(body)
    assert fields == json.loads(again[2]) and fields["id"] == "0a.raised" and fields["llmops.run"] == "r1"
    assert fields["runbook"] == "docs/runbook.md#spool" and fields["link"] == "http://127.0.0.1:8000/dashboard"
    assert (fields["value"], fields["bound"], fields["severity"], fields["type"]) == (90, 15, "warning", "warning")
    assert fields["title"].startswith("[raised] warning: spool (über") and "It waits, über" in fields["message"]


@pytest.mark.parametrize(("scheme", "field"), [("xml", b"<value>90.0</value>"), ("form", b"value=90.0")])
def test_other_webhooks_get_all_fields_too(hook: Any, tmp_path: Path, scheme: str, field: bytes) -> None:
    receiver, message = make_receiver(tmp_path, hook.url.replace("http", scheme))
    receiver.send(message)
    assert field in hook.got[0][2] and b"0a.raised" in hook.got[0][2]


def test_no_text_of_an_alert_calls_everybody_in_a_chat(hook: Any, tmp_path: Path) -> None:
    receiver, message = make_receiver(tmp_path, hook.url.replace("http", "mmost") + "/token")
    receiver.send(message)
    path, _, body = hook.got[0]
    text = json.loads(body)["text"]
    assert path == "/hooks/token" and "docs/runbook.md#spool" in text and "über" in text
    assert "<!channel>" not in text and "@here" not in text


@pytest.mark.parametrize("url", ["{}/hooks/${{T}}", "${{HOOK}}", "{}/hooks/s3cret/x"])
def test_what_is_not_accepted_is_an_error_and_neither_this_nor_the_log_has_the_secret(
    hook: Any, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("DEBUG")
    heard = logging.StreamHandler(io.StringIO())  # pytest's own listens to loggers that do not hand on, too
    monkeypatch.setattr(logging.root, "handlers", [heard])
    address = hook.url.replace("http", "json")
    environ = {"T": "s3cret/x", "HOOK": f"{address}/hooks/s3cret/x"}
    receiver, message = make_receiver(tmp_path, url.format(address), **environ)
    receiver.send(message)
    hook.says = "The requested URL /hooks/s3cret/x was not found on this server."
    for hook.status in (302, 404, 500):
        with pytest.raises(TransientError, match=f"(?s){hook.status}.*The requested URL") as error:
            receiver.send(message)
        assert hook.got[0][0] == "/hooks/s3cret/x" and "s3cret" not in str(error.value) + heard.stream.getvalue()


@pytest.mark.parametrize(
    ("url", "environ", "kind", "words"),
    [
        ("json://127.0.0.1:9/${T}", {"T": "s3cret"}, TransientError, "127.0.0.1"),  # nobody is there
        ("json://127.0.0.1:9/${T}", {}, ConfigError, "set T in"),
        ("${T}", {"T": "nothing://s3cret"}, ConfigError, "mine.*nothing://"),
        ("${T}", {"T": "s3cret"}, ConfigError, "mine"),
        ("slack://${T}", {"T": "s3cret"}, ConfigError, "mine.*slack://"),
    ],
)
def test_a_receiver_that_cannot_be_told_is_named_without_its_secret(
    tmp_path: Path, url: str, environ: dict[str, str], kind: type[Exception], words: str
) -> None:
    receiver, message = make_receiver(tmp_path, url, **environ)
    with pytest.raises(kind, match=words) as error:
        receiver.send(message)
    assert "s3cret" not in str(error.value)


def test_a_receiver_that_cannot_work_is_logged_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receivers = [{"name": "typo", "url": "mailtoo://x"}, {"name": "good", "url": "json://x"}]
    watch = AlertThreads(Config(home=tmp_path, alerts={"receivers": receivers}))
    watch.stop()
    watch._check()
    assert [record.levelname for record in caplog.records if "receiver" in record.getMessage()] == ["ERROR"]
    assert "the URL of the receiver typo" in caplog.text


def test_mail_by_starttls_with_a_password(
    smtp: Callable[[bool], Any],
    free_port: int,
    tmp_path: Path,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, people = smtp(True), "from=bot@example.com&to=a@example.com,b@example.com&format=text"
    url = f"mailtos://bot:${{SMTP_PASSWORD}}@127.0.0.1:{free_port}/?user=bot&{people}"
    receiver, message = make_receiver(tmp_path, url, SMTP_PASSWORD="s3cret @/")
    with pytest.raises(TransientError, match="certificate"):  # of an authority that nobody knows
        receiver.send(message)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    receiver.send(message)
    first = box.got[0]
    assert box.signed_in[0] == (b"bot", b"s3cret @/")
    assert {mail["To"] for mail in box.got} == {"a@example.com", "b@example.com"}
    assert "warning: spool" in first["Subject"]
    text = first.get_content()
    assert "value: 90.0" in text and "What to do: docs/runbook.md#spool" in text and "id: 0a.raised" in text
    wrong, _ = make_receiver(tmp_path, url, SMTP_PASSWORD="wr0ng")
    with pytest.raises(TransientError) as error:
        wrong.send(message)
    assert "wr0ng" not in str(error.value)


def test_mail_without_tls_where_a_server_refuses(smtp: Callable[[bool], Any], free_port: int, tmp_path: Path) -> None:
    box, where = smtp(False), f"127.0.0.1:{free_port}/?from=bot@example.com&to=a@example.com"
    receiver, message = make_receiver(tmp_path, f"mailto://{where}&mode=insecure")
    receiver.send(message)
    assert len(box.got) == 1
    strict, _ = make_receiver(tmp_path, f"mailtos://{where}")
    with pytest.raises(TransientError, match="STARTTLS"):  # nothing goes out in the clear unless that is asked for
        strict.send(message)
    box.refuse = "452 mailbox full"
    with pytest.raises(TransientError, match="a@example.com"):
        receiver.send(message)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "mailtos://bot:plain@h?to=a@b.com"}, "NAME"),
        ({"url": "hooks.example.com"}, "mine.*URL of apprise"),
        ({"url": "json://x", "name": "log"}, "log"),
        ({"url": "json://x", "kind": "webhook"}, "kind"),
    ],
)
def test_a_receiver_that_cannot_work_is_named(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    receivers = [{"name": "mine", **settings}]
    with pytest.raises(ConfigError, match=words):
        load(overrides={"alerts": {"receivers": receivers}}, environ={"LLMOPS_HOME": str(tmp_path)})


def test_the_command_tells_every_receiver_and_says_what_happened(
    hook: Any, free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    receivers = [
        {"name": "good", "url": hook.url.replace("http", "json")},
        {"name": "away", "url": f"json://127.0.0.1:{free_port}"},
    ]
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setenv("LLMOPS_ALERTS__RECEIVERS", json.dumps(receivers))
    assert cli.main(["alerts", "test", "--json"]) == 1
    fields = json.loads(capsys.readouterr().out)
    assert fields["good"] == fields["log"] == fields["event"] == "" and "Connection error" in fields["away"]
    assert json.loads(hook.got[0][2])["state"] == "test"
    config = load()
    drain_spool(config.events, config.monitoring)
    assert [event["llmops.alert.state"] for event in LocalStore(config.events).find(ALERT)] == ["test"]
