"""Import what the serving app imports, now or later, while its image is built: `python -P used.py`.

Python compiles these modules; nothing can be written where the image runs. It fails where a package is missing.
"""

import importlib
from tempfile import TemporaryDirectory

from llmops.config import Config
from llmops.scans.pii import ENTITIES, redact_texts
from serving.app import create_app

for name in (
    "llmops.cli.keys",
    "llmops.cli.models",
    "llmops.model.base.folder",
    "serving.admission.provider",
    "serving.engines.openvino",
):
    importlib.import_module(name)
for name in (
    "openvino",
    "openvino.opset15",
    "openvino_genai",
    "safetensors.numpy",
    "serving.engines.detokenize",
    "serving.engines.prompt",
    "uvicorn.lifespan.on",
):
    importlib.import_module(name)
redact_texts(["Ana Silva, Lisbon, ana@example.com"], ENTITIES)
with TemporaryDirectory() as home:
    create_app(Config(home=home)).openapi()
