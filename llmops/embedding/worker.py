"""The process that owns the model: each line has the token ids of some texts, its answer their vectors in base64.

    python -m llmops.embedding.worker THREADS

It steps back for the language model, which computes on the same cores.

A process of its own, because OpenVINO puts a stack of its own in place for signals, see `llmops.model.gguf.worker`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from pathlib import Path

from llmops.child.answer import answer_lines
from llmops.embedding.graph import open_model
from llmops.embedding.weights import read_weights

NICE = 10  #: 19 is the least; beside a process of 0 it has a tenth of a core that both want


def main(threads: str) -> None:
    """Answer until the input ends."""
    os.nice(NICE)
    with contextlib.suppress(OSError):  # where sessions share the cores, this is what counts
        Path("/proc/self/autogroup").write_text(str(NICE))
    model = open_model(read_weights(), int(threads))
    answer_lines(lambda texts: base64.b64encode(model(texts).astype("<f4").tobytes()).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
