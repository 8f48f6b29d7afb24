"""Each receiver against a real one: an HTTP server, an SMTP server with and without TLS, a notifier of Airflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmops import cli
from llmops.alerts.finding import Finding, document
from llmops.alerts.receivers.base import Receiver
from llmops.alerts.receivers.kinds import receivers_of
from llmops.config import Config, load
from llmops.errors import ConfigError, TransientError
from llmops.monitoring.datasets import ALERT
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore

EVIL = 'über\n<!channel> & "\u2028'
FINDING = Finding("spool", f"It waits, {EVIL}.", subject=EVIL, value=90.0, bound=15.0)
ROW = {
    "id": "0a", "rule": "spool", "subject": EVIL, "place": "", "severity": "warning", "finding": FINDING.kept(),
    "raised": "2026-01-10T12:00:00.000Z", "resolved": "",
}  # fmt: skip


def made(tmp_path: Path, environ: Mapping[str, str] | None = None, **settings: Any) -> tuple[Receiver, dict[str, Any]]:
    config = Config(home=tmp_path, alerts={"receivers": [{"name": "mine", **settings}]})
    *_, receiver = receivers_of(config, environ or {})
    return receiver, document(config, ROW, "raised")


def test_a_webhook_gets_all_of_it_as_json_with_an_id_that_stays(hook: Any, tmp_path: Path) -> None:
    url = f"{hook.url}/hooks/${{TOKEN}}"
    headers = {"Authorization": "Bearer ${TOKEN}", "From": "${TEAM}@example.com"}
    receiver, told = made(tmp_path, {"TOKEN": "t0p", "TEAM": "on/call"}, kind="webhook", url=url, headers=headers)
    for _ in range(2):
        receiver.send(told)
    (path, headers, body), again = hook.got
    assert path == "/hooks/t0p" and headers["Authorization"] == "Bearer t0p"
    assert headers["From"] == "on/call@example.com"
    assert json.loads(body) == told == json.loads(again[2])
    assert headers["Idempotency-Key"] == again[1]["Idempotency-Key"] == "0a.raised"
    assert told["runbook"] == "docs/runbook.md#spool" and told["link"] == "http://127.0.0.1:8000/dashboard"
    assert (told["value"], told["bound"], told["severity"]) == (90, 15, "warning")


def test_slacks_form_lets_no_subject_mention_everybody(hook: Any, tmp_path: Path) -> None:
    receiver, told = made(tmp_path, kind="webhook", url=hook.url, template="slack")
    receiver.send(told)
    form = json.loads(hook.got[0][2])
    assert [block["type"] for block in form["blocks"]] == ["section", "context"]
    text = form["blocks"][0]["text"]["text"]
    assert "<!channel>" not in text and "&lt;!channel&gt; &amp;" in text
    assert "<!channel>" not in form["text"]  # which is all that others than Slack show
    assert "docs/runbook.md#spool" in form["blocks"][1]["elements"][0]["text"]


def test_a_template_of_ones_own(hook: Any, tmp_path: Path) -> None:
    file = tmp_path / "pager.json.j2"
    file.write_text(
        '{"key": {{ alert | tojson }}, "what": {{ message | tojson }}, "done": {{ (state == "resolved") | tojson }}}'
    )
    receiver, told = made(tmp_path, kind="webhook", url=hook.url, template_file=str(file))
    receiver.send(told)
    assert json.loads(hook.got[0][2]) == {"key": "0a", "what": told["message"], "done": False}
    file.write_text("{{ mesage }}")
    with pytest.raises(Exception, match="mesage"):
        receiver.send(told)


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500])
def test_what_is_not_accepted_is_an_error(hook: Any, tmp_path: Path, status: int) -> None:
    hook.status = status
    receiver, told = made(tmp_path, kind="webhook", url=hook.url)
    with pytest.raises(TransientError, match=str(status)):
        receiver.send(told)


def test_the_error_of_a_webhook_that_is_away_has_no_secret(tmp_path: Path, free_port: int) -> None:
    receiver, told = made(tmp_path, {"T": "s3cret"}, kind="webhook", url=f"http://127.0.0.1:{free_port}/${{T}}")
    with pytest.raises(TransientError) as error:
        receiver.send(told)
    assert "s3cret" not in str(error.value)
    receiver, told = made(tmp_path, kind="webhook", url=f"http://127.0.0.1:{free_port}/${{T}}")
    with pytest.raises(ConfigError, match="set T in"):
        receiver.send(told)


@pytest.mark.parametrize("url", ["{}/hooks/${{T}}", "${{HOOK}}"])
def test_neither_the_log_nor_the_error_of_a_webhook_that_answers_has_its_secret(
    hook: Any, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    environ = {"T": "s3cret/x", "HOOK": f"{hook.url}/hooks/s3cret/x"}
    receiver, told = made(tmp_path, environ, kind="webhook", url=url.format(hook.url))
    receiver.send(told)
    hook.status, hook.says = 404, "The requested URL /hooks/s3cret/x was not found on this server."
    with pytest.raises(TransientError, match="404: The requested URL") as error:
        receiver.send(told)
    assert hook.got[0][0] == "/hooks/s3cret/x" and "s3cret" not in str(error.value) + caplog.text
    receiver, told = made(tmp_path, {"T": "host:s3cret"}, kind="webhook", url="http://${T}")
    with pytest.raises(TransientError, match="InvalidURL") as error:
        receiver.send(told)
    assert "s3cret" not in str(error.value)


def test_mail_by_starttls_with_a_password(
    smtp: Callable[[bool], Any], free_port: int, tmp_path: Path, certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    box = smtp(True)
    settings = {
        "host": "127.0.0.1",
        "port": free_port,
        "sender": "bot@example.com",
        "to": ["a@example.com", "b@example.com"],
    }
    settings |= {"user": "bot", "password": "${SMTP_PASSWORD}"}
    receiver, told = made(tmp_path, {"SMTP_PASSWORD": "s3cret @/"}, kind="email", **settings)
    with pytest.raises(TransientError, match="certificate"):  # of an authority that nobody knows
        receiver.send(told)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    for _ in range(2):
        receiver.send(told)
    mail, again = box.got
    assert box.signed_in[0] == (b"bot", b"s3cret @/")
    assert mail["Message-ID"] == again["Message-ID"] == "<0a.raised@llmops>"
    assert mail["To"] == "a@example.com, b@example.com" and "warning: spool" in mail["Subject"]
    text = mail.get_content()
    assert "value: 90.0" in text and "What to do: docs/runbook.md#spool" in text and "über" in text
    wrong, _ = made(tmp_path, {"SMTP_PASSWORD": "wr0ng"}, kind="email", **settings)
    with pytest.raises(TransientError) as error:
        wrong.send(told)
    assert "wr0ng" not in str(error.value)


def test_mail_without_tls_and_a_server_that_refuses_it(
    smtp: Callable[[bool], Any], free_port: int, tmp_path: Path
) -> None:
    box = smtp(False)
    settings = {"host": "127.0.0.1", "port": free_port, "sender": "bot@example.com", "to": ["a@example.com"]}
    receiver, told = made(tmp_path, kind="email", tls="off", **settings)
    receiver.send(told)
    assert len(box.got) == 1
    strict, _ = made(tmp_path, kind="email", **settings)
    with pytest.raises(TransientError, match="STARTTLS"):  # nothing goes out in the clear unless that is asked for
        strict.send(told)
    box.refuse = "452 mailbox full"
    with pytest.raises(TransientError, match="452"):
        receiver.send(told)


NOTIFIER = """
import json
from airflow.sdk import BaseNotifier

class ToFile(BaseNotifier):
    template_fields = ("text",)

    def __init__(self, file, text):
        super().__init__()
        self.file, self.text = file, text

    def notify(self, context):
        if self.text == "fail":
            raise RuntimeError("the pager is out of paper")
        with open(self.file, "a") as file:
            file.write(json.dumps([self.text, context["alert"]["id"]]) + "\\n")

class NoNotifier:
    pass
"""


def test_a_notifier_of_airflow_by_the_path_of_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_notifiers.py").write_text(NOTIFIER)
    monkeypatch.syspath_prepend(tmp_path)
    text = "{{ title }} {{ alert.value }} ${WORD} @ops"
    settings = {"kind": "airflow", "notifier": "our_notifiers.ToFile"}
    arguments = {"file": str(tmp_path / "told"), "text": text}
    receiver, told = made(tmp_path, {"WORD": "hush, all"}, arguments=arguments, **settings)
    receiver.send(told)
    said, id = json.loads((tmp_path / "told").read_text())
    assert id == "0a.raised" and said.startswith("[raised] warning: spool") and said.endswith("90.0 hush, all @ops")
    failing, _ = made(tmp_path, arguments={**arguments, "text": "fail"}, **settings)
    with pytest.raises(RuntimeError, match="paper"):
        failing.send(told)
    for wrong in ("our_notifiers.NoNotifier", "our_notifiers.Nothing", "nowhere.Nothing", "Nothing"):
        receiver, _ = made(tmp_path, kind="airflow", notifier=wrong)
        with pytest.raises(ConfigError, match=wrong):
            receiver.send(told)


def test_without_airflow_its_notifiers_wait_for_a_process_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmops.alerts.receivers.kinds.find_spec", lambda name: None)
    receiver, _ = made(tmp_path, kind="airflow", notifier="our_notifiers.ToFile")
    assert receiver.name == "event"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "webhook"}, "needs url"),
        ({"kind": "webhook", "url": "ftp://x"}, "http"),
        ({"kind": "webhook", "url": "https://a:b@x/"}, "NAME"),
        ({"kind": "email", "host": "h"}, "sender and to"),
        ({"kind": "email", "host": "h", "sender": "a@b", "to": ["c@d"], "password": "plain"}, "NAME"),
        ({"kind": "email", "host": "h", "sender": "a@b", "to": ["c@d\nBcc: e@f"]}, "address"),
        ({"kind": "airflow"}, "notifier"),
        ({"kind": "webhook", "url": "https://x", "name": "log"}, "log"),
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
        {"name": "good", "kind": "webhook", "url": hook.url},
        {"name": "away", "kind": "webhook", "url": f"http://127.0.0.1:{free_port}"},
    ]
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setenv("LLMOPS_ALERTS__RECEIVERS", json.dumps(receivers))
    assert cli.main(["alerts", "test", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["good"] == said["log"] == said["event"] == "" and "reached" in said["away"]
    assert json.loads(hook.got[0][2])["state"] == "test"
    config = load()
    drain(config.events, config.monitoring)
    assert [event["llmops.alert.state"] for event in LocalStore(config.events).find(ALERT)] == ["test"]
