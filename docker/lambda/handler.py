"""What Lambda calls: `handler.handler`. Importing this is the cold start, on purpose: the model is loaded in it."""

import logging
import os
from pathlib import Path

from function import Function, bring

from llmops.config import load

logging.getLogger().setLevel(logging.INFO)
config = load()
bring(Path(os.environ["LLMOPS_IMAGE_STATE"]), config)
handler = Function(config)
