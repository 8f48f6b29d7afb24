"""An end-to-end LLMOps platform: collect, clean, fine-tune, check, release, serve and watch a language model."""

import os
from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).parents[1]  #: parent folder of this package; in a checkout it has `dags/` and `feature_repo/`


def python_path() -> str:
    """Return `PYTHONPATH` for a process that runs a module of this package."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
