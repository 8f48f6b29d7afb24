"""The command about events on their way to the sinks."""

import argparse
import json
import os
import signal
import sys
import threading

from llmops.cli.command import Add
from llmops.cli.output import print_line
from llmops.config import Config
from llmops.frame.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(events)
    sub.add_argument("action", nargs="?", default="status", choices=["status", "dead", "retry", "forget", "ship"])
    sub.add_argument("sink", nargs="?", default="", help="one sink (default: all; forget needs one, ship takes none)")


def events(settings: Config, options: argparse.Namespace) -> int | None:
    """Show waiting events and dead letters of each sink; retry these; forget a sink; ship until stopped."""
    from llmops.events.spool import Spool

    if options.action == "retry":
        return _retry(settings, options)
    if options.action == "ship":
        return _ship(settings, options)
    with Spool(settings.events) as spool:
        if options.action == "dead":
            for sink, letter in spool.read_rejected(options.sink):
                found = {"sink": sink, "id": letter.id, "reason": letter.reason}
                print_line(
                    json.dumps({**found, "event": letter.document}) if options.json else "  ".join(found.values())
                )
            return None
        if options.action == "forget":
            if not options.sink or options.sink in settings.monitoring.sinks:
                raise ConfigError("events forget: name a sink that monitoring.sinks does not name any more.")
            spool.unregister(options.sink)
            return None
        failing, rejected = spool.find_sinks_in_state("failing"), spool.count_rejected()
        rows = [
            {
                "sink": sink,
                "waiting": waiting,
                "oldest": spool.find_oldest_time(sink),
                "dead": rejected.get(sink, 0),
                "failing_since": failing[sink][0] if sink in failing else "",
                "reason": failing[sink][1] if sink in failing else "",
                "configured": sink in settings.monitoring.sinks,
            }
            for sink, waiting in spool.count_waiting().items()
            if options.sink in ("", sink)
        ]
        if options.json:
            print_line(json.dumps({"bytes": spool.count_bytes(), "sinks": rows}))
            return None
    for row in rows:
        line = f"{row['sink']}  {row['waiting']} wait" + (f", since {row['oldest']}" if row["waiting"] else "")
        line += f"  {row['dead']} dead letters" if row["dead"] else ""
        print_line(line + ("" if row["configured"] else "  (monitoring.sinks does not name it)"))
        if row["reason"]:
            print_line(f"  fails since {row['failing_since']}: {row['reason']}")
    return None


def _ship(settings: Config, options: argparse.Namespace) -> int:
    """Ship events until SIGTERM or Ctrl-C, for sinks that this home's processes do not have configured."""
    from llmops.events.shipping import make_shipper

    if options.sink:
        raise ConfigError("events ship: it ships to all of monitoring.sinks; LLMOPS_MONITORING__SINKS names others.")
    shipper, stop = make_shipper(settings.events, settings.monitoring), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    shipper.start()
    print_line(f"Events are shipped to {', '.join(settings.monitoring.sinks)} until this is stopped.", to=sys.stderr)
    try:
        stop.wait()
    finally:
        shipper.stop()
    return 0


def _retry(settings: Config, options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from llmops.events.shipping import resend_rejected
    from llmops.events.sinks.factory import make_sinks

    sinks = make_sinks(settings.events, settings.monitoring)
    chosen = [sink for sink in sinks if options.sink in ("", sink.name)]
    if not chosen:
        raise ConfigError(f"monitoring.sinks does not name {options.sink}.")
    try:
        done = resend_rejected(settings.events, chosen)
    finally:
        for sink in sinks:
            sink.close()
    if options.json:
        print_line(json.dumps({name: asdict(shipment) for name, shipment in done.items()}))
    else:
        for name, shipment in done.items():
            taken = shipment.sent - shipment.rejected
            print_line(f"{name}  {taken} taken  {shipment.rejected} refused again" + f"  {shipment.error}".rstrip())
    if any(shipment.error for shipment in done.values()):
        return os.EX_TEMPFAIL
    return 1 if any(shipment.rejected for shipment in done.values()) else 0
