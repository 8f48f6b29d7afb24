"""Checkpoints that a killed training goes on from: whole ones only, and a plain error when the disk is full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from llmops.errors import DiskFullError

COMPLETE = "complete"  #: marker file, written last into a checkpoint: without it the checkpoint is not used
KEPT = 2  #: newest checkpoints that stay: one that is being written when a kill comes leaves the one before


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole."""
    whole = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda p: int(p.name.split("-")[1]), default=None)


def remove_incomplete(folder: Path) -> None:
    """Delete what a kill left half-written; it would count as one of the checkpoints that are kept."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises (torch, safetensors and Python each have their own) into one plain error."""
    try:
        yield
    # torch raises RuntimeError, with the reason in its text only
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free
        raise DiskFullError(
            f"A checkpoint could not be written to {folder}, where {free / 1e9:.1f} GB are free: {error}. Make room "
            "and run train again; it goes on from the last whole checkpoint."
        ) from error


def need_disk(out: Path, base: Path) -> None:
    """Refuse to start on a disk that would not hold the result: merged model, adapter and checkpoints.

    Raises:
        DiskFullError: with what is needed and what is free.
    """
    need = 3 * sum(f.stat().st_size for f in base.rglob("*.safetensors"))
    free = shutil.disk_usage(out).free
    if free < need:
        raise DiskFullError(
            f"Training needs about {need / 1e9:.1f} GB on the disk of {out}, {free / 1e9:.1f} GB are free."
        )
