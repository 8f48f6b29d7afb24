"""Prompts of a few topics, drawn by a seed."""

from collections.abc import Mapping

import numpy as np

WORDS = {
    "card": "card arrived lost stolen bank plastic pin replace mail wait",
    "cash": "cash machine withdraw money limit notes fee abroad swallowed amount",
    "login": "login password reset phone app verify code email account locked",
}


def make_prompts(counts: Mapping[str, int], seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"how do I {' '.join(rng.choice(WORDS[topic].split(), 4))} please today"
        for topic, count in counts.items()
        for _ in range(count)
    ]
