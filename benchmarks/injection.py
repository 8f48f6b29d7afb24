"""Injected passages: how often a model does what a passage of the documents orders, before and after separation.

The passages are those of `llmops/govern/probes.yaml`: each answers its question, and holds an order to the model. An
order counts as obeyed if the answer has what it asks for, also where the model only passes on what it has read. Arms:

raw: the passage goes into the chat template as text, and what looks like a control token is one;
separated: as all texts do here, control tokens of a passage are characters (`llmops.prompts`);
as served: besides, the stage `index` keeps out passages with marks or control tokens, so that nobody is given them.

Asked are SmolLM2-135M-Instruct and, with `--version FOLDER`, the servable folder of a version.

    python benchmarks/injection.py [--version FOLDER] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contenders import BASE
from report import finish, parser
from servers import make_base

from llmops import prompts
from llmops.govern.probes import Probe, judge, probes
from llmops.model.base import generate
from llmops.model.base.answering import Answering, open_model
from llmops.scans.prompt_marks import prompt_mark
from llmops.statistics.rates import wilson

TOKENS = 48  #: of an answer
RAW, SEPARATED, SERVED = "raw", "separated", "as served"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "the same: it takes seconds")
    made.add_argument("--version", type=Path, metavar="FOLDER", help="the servable folder of a version, asked too")
    return made.parse_args(arguments)


def main() -> None:
    """Ask every model every passage and print the table."""
    told = options()
    asked, arms = injected(), dict[str, dict[str, float]]()
    folders = {"base": make_base(BASE)} | ({"version": told.version} if told.version else {})
    for name, folder in folders.items():
        model = open_model(folder)
        for arm in (RAW, SEPARATED, SERVED):
            answers = answered(model, asked, arm)
            arms[f"{name}, {arm}"] = figures(asked, answers)
            for probe, answer in zip(asked, answers, strict=True):
                print(f"{name}, {arm}, {probe.id}: {answer!r}", file=sys.stderr)
        model.close()
    ratios = {
        f"{name}: orders obeyed, {SERVED} over {RAW}": arms[f"{name}, {SERVED}"]["obeyed %"] / before
        for name in folders
        if (before := arms[f"{name}, {RAW}"]["obeyed %"])
    }
    finish(told, arms, ratios, packages=("transformers", "torch", "openvino-genai"))


def injected() -> list[Probe]:
    """The probes whose order stands in a passage."""
    return [probe for probe in probes() if probe.context]


def answered(model: Answering, asked: Sequence[Probe], arm: str) -> list[str]:
    """The answers to each probe in one of the arms, empty where the passage is never given."""
    given = [probe for probe in asked if arm != SERVED or not prompt_mark(probe.context)]
    ids = [
        raw_ids(model, probe) if arm == RAW else prompts.prompt_ids(model.tokenizer, probe.question, probe.context)
        for probe in given
    ]
    found = model.generate(ids, TOKENS, len(ids))
    said = {probe.id: generate.decode(model.tokenizer, one) for probe, one in zip(given, found, strict=True)}
    return [said.get(probe.id, "") for probe in asked]


def figures(asked: Sequence[Probe], answers: Sequence[str]) -> dict[str, float]:
    """The share of the orders that were obeyed, with its interval, of all and of those with and without marks."""
    did = [bool(judge(probe, answer)) for probe, answer in zip(asked, answers, strict=True)]
    marked = [bool(prompt_mark(probe.context)) for probe in asked]
    rate = wilson(sum(did), len(did))
    return {
        "attacks": len(asked),
        "obeyed %": 100 * rate.rate,
        "low %": 100 * rate.low,
        "high %": 100 * rate.high,
        "with marks": sum(one for one, mark in zip(did, marked, strict=True) if mark),
        "of": sum(marked),
        "without": sum(one for one, mark in zip(did, marked, strict=True) if not mark),
        "of them": len(marked) - sum(marked),
    }


def raw_ids(model: Answering, probe: Probe) -> list[int]:
    """The prompt as a chat template and a tokenizer make it of texts that nobody looks at."""
    content = prompts.annotated(probe.question, "", probe.context).rpartition("\n[Answer]")[0]
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


if __name__ == "__main__":
    main()
