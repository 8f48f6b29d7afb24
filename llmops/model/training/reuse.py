"""The training of the trial that `tune` chose. `train` reuses it, because it would repeat it step by step."""

import logging
import shutil
from pathlib import Path

from llmops.config import Train
from llmops.frame.artifacts import link_or_copy, read_record
from llmops.model.training.fit import find_newest_checkpoint

log = logging.getLogger(__name__)

TRAINED_FOLDER = "trained"  #: in the artifact of `tune`: the last checkpoint of the chosen trial
_UNUSED_FILES = ("optimizer.pt", "rng_state.pth")  # a finished training takes no step that needs them


def keep_training(trial: Path, out: Path) -> None:
    """Move the last checkpoint of a trial that was trained whole to the artifact `out`; Spark's trials have none."""
    if find_newest_checkpoint(out / TRAINED_FOLDER):
        return  # by a run that was killed after it
    if checkpoint := find_newest_checkpoint(trial / "checkpoints"):
        for name in _UNUSED_FILES:
            (checkpoint / name).unlink(missing_ok=True)
        (out / TRAINED_FOLDER).mkdir(exist_ok=True)
        checkpoint.rename(out / TRAINED_FOLDER / checkpoint.name)


def reuse_training(tune: Path, config: Train, epochs: float, processes: int, out: Path) -> None:
    """Give `fit` the last checkpoint of the chosen trial, if `tune` kept it and a training would end at the same one.

    It would not if it had another seed or several processes. With `validate_steps` or `report_to` it writes more. And
    from the end of a part of an epoch, transformers' `Trainer` takes one step too many.
    """
    same = epochs % 1 == 0 and processes == 1 and not config.validate_steps and not config.report_to
    checkpoint = find_newest_checkpoint(tune / TRAINED_FOLDER)
    if not checkpoint or not same or read_record(tune).config["seed"] != config.seed:
        return
    copy, target = out / f".{checkpoint.name}", out / "checkpoints" / checkpoint.name
    if not target.exists():
        shutil.rmtree(copy, ignore_errors=True)  # a killed run left it
        shutil.copytree(checkpoint, copy, copy_function=link_or_copy)
        target.parent.mkdir(exist_ok=True)
        copy.rename(target)
        log.info("the chosen trial of tune has trained this already")
