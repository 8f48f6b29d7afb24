"""Run the serving app with the configuration of the environment: `python -m serving`."""

import logging
import sys

from llmops.config import load
from llmops.frame.errors import ConfigError, StateError
from serving.app import serve

if __name__ == "__main__":
    logging.getLogger("elastic_transport").setLevel(logging.WARNING)  # else a line for each request
    try:
        serve(load())
    except (ConfigError, StateError) as error:
        sys.exit(f"serving: {error}")
