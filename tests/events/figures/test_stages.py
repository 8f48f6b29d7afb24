"""Figures of a stage: units, changes, what has parts, and the one that stands for the stage."""

import pytest

from llmops.events.figures.stages import MAX_CHARS, format_figures, format_headline, format_tables


@pytest.mark.parametrize(
    ("name", "value", "before", "row"),
    [
        ("steps", 1234, 1300, ("steps", "1,234", "", "−66")),
        ("steps", 5, 5, ("steps", "5", "", "=")),
        ("validation_loss", 1.66925, 1.75, ("validation loss", "1.669", "nats/token", "−0.08075")),
        ("truncated_share", 0.25, 0.125, ("truncated share", "25", "%", "+12.5")),
        ("tokens_per_second", 12345.6, None, ("tokens per second", "12,346", "tokens/s", "")),
        ("bf16_size_mib", 260.0, 260, ("bf16 size mib", "260", "MiB", "=")),
        ("beyond_noise", True, True, ("beyond noise", "yes", "", "=")),
        ("best", None, 3, ("best", "–", "", "")),
        ("gain", -0.5, "none", ("gain", "−0.5", "nats/token", "")),
        ("glosses", 1, None, ("glosses", "1", "", "")),
        ("why", "a\nb" + "x" * MAX_CHARS, "", ("why", "a b" + "x" * (MAX_CHARS - 4) + "…", "", "")),
    ],
)
def test_a_figure_is_a_row_with_its_unit_and_its_change(name, value, before, row):
    assert format_figures({name: value}, {name: before}) == [row]


def test_what_has_levels_is_spread_and_what_is_measured_alike_is_a_table_of_its_own():
    metrics = {
        "kept": 3,
        "dropped": {"short": 1},
        "reasons": ["a", "b"],
        "sources": {"faq": {"in": 2}, "web": {"left": 1}},
    }
    assert [row[:2] for row in format_figures(metrics)] == [
        ("kept", "3"),
        ("dropped: short", "1"),
        ("reasons 1", "a"),
        ("reasons 2", "b"),
    ]
    assert format_tables(metrics) == [("sources", ["in", "left"], [["faq", "2", "–"], ["web", "–", "1"]])]


def test_one_figure_stands_for_a_stage():
    assert format_headline("clean", {"in": 5, "kept": 4})[:2] == ("kept", "4")
    assert format_headline("evaluate", {"items": 9, "base_f1": 0.1, "candidate_f1": 0.5})[:2] == ("candidate f1", "0.5")
    assert format_headline("another", {"parts": {"a": {}}, "first": 1})[0] == "first"
    assert format_headline("train", {"steps": 3})[0] == "steps" and format_headline("train", {}) is None
