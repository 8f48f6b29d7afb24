"""Compiles dashboards.yaml to the saved objects that `llmops elk setup` brings to Kibana, and prints them.

    python3.12 -m venv /tmp/kibana && /tmp/kibana/bin/pip install -r docker/kibana/requirements.txt
    /tmp/kibana/bin/python docker/kibana/compile.py > llmops/monitoring/elk/kibana.ndjson

Formulas are left alone: with this compiler's version they never end. So is a metric's own `filter`, which it drops.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from kb_dashboard_core import load, render

_TIME = {"inputFormat": "nanoseconds", "outputFormat": "humanizePrecise", "outputPrecision": 1, "useShortSuffix": True}
#: how figures are shown: durations, which are in nanoseconds, as `1.5 s`
FORMATS = {
    **{
        name: {"id": "duration", "params": _TIME}
        for name in ("event.duration", "llmops.time_to_first_token", "llmops.queue_time")
    },
    "llmops.retention.freed": {"id": "bytes"},
}

DATA_VIEW = {
    "type": "index-pattern",
    "id": "llmops-events",
    "attributes": {
        "title": "logs-llmops.*-*",
        "name": "llmops: all events",
        "timeFieldName": "@timestamp",
        "fieldFormatMap": json.dumps(FORMATS, sort_keys=True),
    },
    "references": [],
    "coreMigrationVersion": "8.8.0",
    "typeMigrationVersion": "8.0.0",
    "managed": False,
}

#: what Kibana itself says of an object, and what would make every compilation another
KIBANAS = ("created_at", "created_by", "updated_at", "updated_by", "version")

lines = [DATA_VIEW]
for dashboard in load(str(Path(__file__).with_name("dashboards.yaml"))):
    made = render(dashboard).model_dump(mode="json", by_alias=True)
    thing = {name: value for name, value in made.items() if name not in KIBANAS}
    version = hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:12]
    thing["attributes"]["description"] += f" (llmops, version {version})"
    lines.append(thing)
sys.stdout.writelines(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
