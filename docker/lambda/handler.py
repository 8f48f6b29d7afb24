"""What Lambda calls: `handler.handler`. Importing this is the cold start, on purpose: the model is loaded in it."""

import logging
import os
from pathlib import Path

from function import Function

from llmops.config import load
from serving.serverless import bring

logging.getLogger().setLevel(logging.INFO)
config = load()
bring(Path(os.environ["LLMOPS_IMAGE_STATE"]), config)
handler = Function(config)
