"""What Lambda calls: `handler.handler`. Importing this is the cold start, on purpose: the model is loaded in it."""

import logging

from function import Function

from llmops.config import load

logging.getLogger().setLevel(logging.INFO)
handler = Function(load())
