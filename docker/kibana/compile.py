"""Compiles dashboards.yaml to the saved objects that `llmops elk setup` brings to Kibana, and prints them.

    python3.12 -m venv /tmp/kibana && /tmp/kibana/bin/pip install -r docker/kibana/requirements.txt
    /tmp/kibana/bin/python docker/kibana/compile.py > llmops/elk/kibana.ndjson

Formulas are left alone: with this compiler's version they never end. So is a metric's own `filter`, which it drops.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from kb_dashboard_core import load, render

DATA_VIEW = {
    "type": "index-pattern",
    "id": "llmops-events",
    "attributes": {"title": "logs-llmops.*-*", "name": "llmops: all events", "timeFieldName": "@timestamp"},
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
