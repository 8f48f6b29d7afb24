"""The improvement report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]

_OUTCOMES = {
    "promoted": "It passed: it is significantly better than the version it was compared with.",
    "rejected": "It did not pass; the champion stays.",
    "inconclusive": "The test cannot decide: too few of its questions are about new examples. The champion stays.",
}


def summarize_report(report: Report) -> str:
    """Return the outcome in one line."""
    waits = f"{_format_count(report['waiting'], 'entry waits', 'entries wait')} for a person"
    if report.get("ended") == "nothing new":
        return f"Nothing new was accepted, so nothing is trained; {waits}."
    gate = next((d for d in reversed(report["decisions"]) if d["kind"] == "gate"), None)
    examples = f"{_format_count(report['accepted'], 'new example')} from feedback"
    if report.get("ended") == "failed":
        return f"The run with {examples} failed; {waits}."
    decision = f"{gate['version']} is {gate['outcome']} by the gate; " if gate else ""
    return f"{examples}; {decision}{waits}."


def render_markdown(report: Report) -> str:
    """Return the report as Markdown. User texts are escaped."""
    lines = [
        f"# Feedback, {report['since'][:10]} to {report['until'][:10]}",
        "",
        summarize_report(report),
        "",
        "## Received",
        "",
        f"- {_format_count(report['corrections'], 'correction')}, of which {report['useless']} only repeat the answer.",
        f"- {_format_count(report['good_answers'], 'answer')} with a good rating and a stored text.",
        f"- {_format_count(report['accepted'], 'new example')} accepted, {report['refused']} refused by a person, "
        f"{report['waiting']} waiting for a person.",
        f"- {_format_count(report['pairs'], 'new preference pair')} "
        "(chosen: the correction, rejected: the model's answer).",
    ]
    if not report["source"]:
        lines += ["", "No source of the kind `feedback` is configured: none of this is trained on."]
    lines += _render_entries("Accepted", report["accepted_entries"], report["accepted"])
    lines += _render_entries("Refused", report["refused_entries"], report["refused"])
    lines += _render_entries("Waiting for a person", report["waiting_entries"], report["waiting"])
    lines += ["", "## Questions without a good answer", ""]
    lines += [f"- {_escape_markdown(t['question'])} ({t['count']}: {t['why']})" for t in report["topics"]] or [
        "None is known. The texts of questions are stored only with `monitoring.keep_text`."
    ]
    lines += ["", "## The model", "", *_describe_model(report)]
    return "\n".join(lines) + "\n"


def _describe_model(report: Report) -> Iterable[str]:
    if not report["decisions"]:
        yield f"Nothing was decided; {report['champion'] or 'no version'} answers."
        return
    for decision in report["decisions"]:
        kind = {"gate": "The gate", "canary": "The canary", "ab_test": "The A/B test"}.get(decision["kind"], "A person")
        yield f"- **{kind} on {decision['version']}: {decision['outcome']}.** {_escape_markdown(decision['why'])}"
        if decision["kind"] == "gate":
            yield f"  {_OUTCOMES.get(decision['outcome'], '')} {_describe_figures(decision['numbers'])}"
    yield ""
    yield f"{report['champion'] or 'No version'} answers now."


def _describe_figures(numbers: Mapping[str, Any]) -> str:
    primary = next((c for c in numbers.get("comparisons", ()) if c["role"] == "primary"), None)
    if not primary:
        return ""
    text = (
        f"On {numbers['items']} questions of {numbers['groups']} topics its {primary['metric']} is "
        f"{primary['candidate']:.3f}, that of {numbers['opponent']} {primary['opponent']:.3f}: a difference of "
        f"{primary['difference']:+.3f} ({primary['low']:+.3f} to {primary['high']:+.3f}). To pass, the whole interval "
        f"must be above {primary['bound']:+.3f}."
    )
    failed = [c["metric"] for c in numbers["comparisons"] if c["role"] == "guardrail" and not c["passed"]]
    text += f" Worse, or not significantly as good, in {', '.join(failed)}." if failed else ""
    if numbers.get("power"):
        text += f" A difference of {numbers['power']:.3f} would be found in four of five tests."
    return text


def _render_entries(title: str, entries: Sequence[Mapping[str, str]], number: int) -> list[str]:
    if not entries:
        return []
    lines = ["", f"## {title}", "", "| question | answer | by | why |", "|---|---|---|---|"]
    for entry in entries:
        cells = (_escape_markdown(entry[name]).replace("|", "\\|") for name in ("question", "text", "by", "why"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines + (["", f"and {number - len(entries)} more."] if number > len(entries) else [])


def _escape_markdown(text: str) -> str:
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>#!~&" else letter for letter in line)


def _format_count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
