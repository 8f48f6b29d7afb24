"""The callers of the demo: they ask the questions of questions.yaml, and rate and correct some of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from llmops.frame.errors import LlmopsError

QUESTIONS = Path(__file__).with_name("questions.yaml")
MAX_TOKENS = 32  #: of an answer
CORRECTIONS = 2
CONCURRENT_QUESTIONS = 6  #: questions; the engine answers them in one batch


class RefusedError(LlmopsError):
    """The serving app does not answer a caller."""


class CallSummary(NamedTuple):
    """Counts of the answers, of the callers' ratings and of their corrections."""

    answers: int
    good: int
    bad: int
    corrected: int


def ask_questions(client: httpx.Client, keys: Sequence[str]) -> CallSummary:
    """Ask all questions, the keys by turns. Rate the answers whose fact is known, and correct the first that lack it.

    Raises:
        RefusedError: with what the serving app says.
    """
    questions = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    ratings, corrected = {"up": 0, "down": 0}, 0

    def ask(key: str, question: Mapping[str, str]) -> dict[str, Any]:
        body = {"prompt": question["question"], "context": question.get("context", ""), "max_new_tokens": MAX_TOKENS}
        return post(client, "/generate", key, body)

    with ThreadPoolExecutor(CONCURRENT_QUESTIONS) as pool:
        answers = [*pool.map(ask, cycle(keys), questions)]
    for key, question, answer in zip(cycle(keys), questions, answers, strict=False):
        if "fact" not in question:
            continue
        rating = "up" if question["fact"] in answer["response"] else "down"
        feedback = {"id": answer["id"], "rating": rating}
        if rating == "down" and corrected < CORRECTIONS:
            feedback |= {"question": question["question"], "context": question["context"], "answer": answer["response"]}
            feedback["correction"] = question["answer"]
            corrected += 1
        post(client, "/feedback", key, feedback)
        ratings[rating] += 1
    return CallSummary(len(questions), ratings["up"], ratings["down"], corrected)


def post(client: httpx.Client, path: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send a body with a caller's key; returns the answer.

    Raises:
        RefusedError: with what the serving app says.
    """
    response = client.post(path, headers={"X-API-Key": key}, json=body)
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise RefusedError(f"The serving app does not answer {path} ({response.status_code}): {answer.get('detail')}")
    return answer
