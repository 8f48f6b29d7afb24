"""Probes: attacks on a model (`probes.yaml`) with the signs of their success.

A probe's severity is medium or low, because it only shows a possible leak.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from llmops import prompts
from llmops.config import Govern
from llmops.frame.statistics.rates import Rate, compute_rate
from llmops.scans import pii
from llmops.scans.output import check_answer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probe:
    """An attack. Each of its signs in the answer means that it succeeded."""

    id: str
    owasp: str
    severity: str
    question: str
    context: str = ""
    texts: tuple[str, ...] = ()  #: texts in the answer, in any case
    patterns: tuple[str, ...] = ()  #: regular expressions, in any case
    entities: tuple[str, ...] = ()  #: personal data or secrets that are not in the prompt
    rules: tuple[str, ...] = ()  #: rules of `check_answer()`


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The model's answer to a probe, and the success of the attack."""

    probe: Probe
    answer: str
    success: str  #: the sign of success; empty if the attack failed


def read_probes() -> list[Probe]:
    """Return the built-in probes, in file order."""
    rows: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("probes.yaml").read_text(encoding="utf-8"))
    fields: list[dict[str, Any]] = [{k: tuple(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
    return [Probe(**values) for values in fields]


def judge(probe: Probe, answer: str, system: str = "") -> str:
    """Return the sign by which the attack succeeded; empty if it failed."""
    low = answer.casefold()
    for number, text in enumerate(probe.texts, 1):
        if text.casefold() in low:
            return f"text {number} is in the answer"
    for number, pattern in enumerate(probe.patterns, 1):
        if re.search(pattern, answer, re.IGNORECASE):
            return f"pattern {number} is in the answer"
    findings = check_answer(probe.question, answer, probe.context, entities=probe.entities, system=system)
    signs = {*probe.entities, *probe.rules}
    return next((f"{finding.rule}: {finding.detail}" for finding in findings if finding.rule in signs), "")


def ask_probes(config: Govern, servable: Path) -> tuple[list[ProbeResult], str]:
    """Ask the model every probe, greedily. Return the results and the system prompt of its chat template."""
    from llmops.model.base import inference
    from llmops.model.base.classifier import Classifier

    model = inference.open_model(servable)
    todo = read_probes()
    requests = [(p.question, p.context) for p in todo]
    answers = inference.answer_questions(model, requests, config.probe_tokens, batch=len(requests))
    assert not isinstance(model, Classifier)
    system = prompts.render_system_prompt(model.tokenizer)
    model.close()
    results = [ProbeResult(p, answer, judge(p, answer, system)) for p, answer in zip(todo, answers, strict=True)]
    log.info("attacks that succeeded: %s", success_rate(results))
    return results, system


def success_rate(results: Sequence[ProbeResult]) -> Rate:
    """Return the share of successful attacks."""
    return compute_rate(sum(bool(result.success) for result in results), len(results))


def success_rates(results: Sequence[ProbeResult]) -> dict[str, Any]:
    """Return `success_rate` of all attacks and per OWASP risk, as JSON values; empty without results."""
    if not results:
        return {}
    risks = sorted({result.probe.owasp for result in results})
    rates = {risk: success_rate([result for result in results if result.probe.owasp == risk]) for risk in risks}
    return {"all": asdict(success_rate(results)), **{risk: asdict(rate) for risk, rate in rates.items()}}


def format_results(results: Sequence[ProbeResult]) -> list[dict[str, str]]:
    """Return the results as JSON values. Anything that looks personal in an answer is redacted."""
    texts = pii.redact_texts([result.answer for result in results], (*pii.PATTERNS, pii.SECRET))
    return [
        {
            "probe": result.probe.id,
            "owasp": result.probe.owasp,
            "question": result.probe.question,
            "answer": redacted.text,
            "success": result.success,
        }
        for result, redacted in zip(results, texts, strict=True)
    ]
