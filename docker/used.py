"""Load what the serving app loads, once: that compiles these modules, for the images may write nothing where they run.

    python -P used.py

Where a package is missing this fails.
"""

import importlib
import tempfile
from contextlib import closing
from pathlib import Path

from fastapi.testclient import TestClient

from llmops.config import Config
from llmops.embedding.embedder import Embedder
from llmops.scans.pii import ENTITIES, redact_all
from serving.app import create_app

for name in ("llmops.cli", "llmops.model.gguf.worker", "llmops.model.base.folder", "serving.engines.openvino"):
    importlib.import_module(name)
for name in ("openvino", "openvino_genai", "serving.engines.prompt", "transformers.tokenization_utils_tokenizers"):
    importlib.import_module(name)
for name in ("serving.serverless", "llmops.embedding.worker"):
    importlib.import_module(name)
with tempfile.TemporaryDirectory() as home, TestClient(create_app(Config(home=Path(home)))) as client:
    for path in ("/signin", "/docs", "/openapi.json", "/healthz"):
        client.get(path).raise_for_status()
with closing(Embedder(1)) as embedder:
    embedder.embed(["Ana Silva, Lisbon"])
redact_all(["Ana Silva, Lisbon, ana@example.com"], ENTITIES)
