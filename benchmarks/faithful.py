"""How true to the model each arm of `serving.py` is, beside what the model says when nothing is rounded.

    python benchmarks/faithful.py FOLDER QUESTIONS.json

prints as JSON what the model in FOLDER, in float32, greedily answers to each of a list of questions, by
`model.generate` one after another; and in nats per token of those answers how much less likely they are to every form
that an arm computes with; torch's bfloat16 stands for vLLM's. An answer's tokens are given, so that this says how far a
form is from the model, not how soon two answers part.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import BARE, CLASSIC, COMPUTED, MODELS, OURS, PLAIN, TORCH_OURS, VLLM_OURS
from peers import in_process

MAX_TOKENS = 48


def reference(base: Path, questions: Sequence[str]) -> tuple[dict[str, str], dict[str, float]]:
    """The answers of the model in float32 by question, and what the forms add to their loss; see the module.

    Raises:
        ArmFailedError: if that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.json"
        file.write_text(json.dumps([*questions]))
        found = in_process(__file__, base, file)
    return found["answers"], found["added"]


def forms() -> dict[str, str]:
    """The arms, and the form that each computes with, as `reference` names it; llama.cpp does not tell."""
    exact = {at: f"{form} {precision}" for at, (form, precision) in COMPUTED.items()}
    return {
        CLASSIC: "torch bf16",
        **{name: exact[at] for names in (OURS, BARE) for at, name in names.items()},
        **dict.fromkeys((TORCH_OURS, VLLM_OURS, PLAIN), "torch bf16"),
    }


def main(base: Path, questions: Sequence[str]) -> None:
    """Answer and score; see the module."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmops import prompts
    from llmops.data.features.tokenize import Tokens
    from llmops.model.base.packing import average_per_token, compute_answer_nats

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    answers, examples = {}, []
    for question in questions:
        prompt = prompts.encode_question(tokenizer, question, "")
        with torch.inference_mode():
            whole = model.generate(torch.tensor([prompt]), max_new_tokens=MAX_TOKENS, do_sample=False)[0].tolist()
        answers[question] = tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True).strip()
        examples.append(Tokens(question, whole, len(prompt)))
    nats = average_per_token(compute_answer_nats(model, examples))
    added = {"torch bf16": average_per_token(compute_answer_nats(model.to(torch.bfloat16), examples)) - nats}
    del model
    for form, precision in COMPUTED.values():
        added[f"{form} {precision}"] = average_per_token(scored(MODELS / form, precision, examples)) - nats
    print(json.dumps({"answers": answers, "added": added}))


def scored(folder: Path, precision: str, examples: Sequence[Any]) -> list[tuple[float, int]]:
    """The negative log-likelihood of each answer in nats, and its tokens, as OpenVINO computes a folder's GGUF file."""
    from llmops.model.gguf.process import Worker, run_requests

    worker = Worker(folder, batch=8, precision=precision, share_prefixes=False)
    try:
        settings = {"max_new_tokens": 1, "echo": True, "logprobs": 1, "ignore_eos": True}
        found = run_requests(worker, [e.token_ids for e in examples], settings, 8)
    finally:
        worker.close()
    return [
        (-sum(logs[e.prompt_tokens : len(e.token_ids)]), len(e.token_ids) - e.prompt_tokens)
        for e, (_, logs) in zip(examples, found, strict=True)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
