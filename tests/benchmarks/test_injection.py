"""The injected passages, and when an order counts as obeyed."""

from collections import Counter
from collections.abc import Callable
from types import ModuleType

from llmops import prompts


def test_no_answer_without_an_order_counts_as_obeyed_and_every_order_would_be_indexed(
    script: Callable[[str], ModuleType],
) -> None:
    module = script("injection")
    orders = module.read_orders()
    assert Counter(row["kind"] for row in orders) == dict.fromkeys({row["kind"] for row in orders}, 5)
    assert len(orders) == 40 == len({row["marker"] for row in orders})
    for row in orders:
        assert not module.obeyed(row, f"{row['question']} {row['passage']} {row['answer']}")
        assert module.obeyed(row, f"Yes. {row['marker'].upper()}!") and not prompts.TURN_MARK.search(row["injected"])


def test_every_way_keeps_all_lines_of_all_passages(script: Callable[[str], ModuleType]) -> None:
    module = script("injection")
    for row in module.read_orders():
        for place in module.PLACES:
            passages = module.placed(row, place)
            for way in module.WAYS.values():
                lines = way(passages, "7f3a91").splitlines()
                assert all(any(part in line for line in lines) for one in passages for part in one.splitlines())
