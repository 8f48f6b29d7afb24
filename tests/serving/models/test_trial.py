"""A share of the callers tries a version; a bad one is taken back, a good one stays, and nobody goes unanswered."""

import asyncio
import re
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.frame.errors import StateUnavailable
from llmops.release import rollout, trials
from llmops.release.counts import SideCounts
from llmops.release.registry.aliases import Canary
from llmops.release.trials import TrialCounts
from llmops.release.verdict import Rules
from serving.engines.base import EngineRequest, Question, TokenIds
from serving.errors import ClientLeft, EngineDied, PromptRefused, QueueFull
from serving.guard import Guard
from serving.models import stream
from serving.models import trial as trial_module
from serving.models.trial import is_drawn_to_canary
from serving.models.watcher import Models
from tests.clock import FakeClock
from tests.serving.echo import EchoEngine, EchoRow

pytestmark = pytest.mark.anyio

#: reasons for which a side that fails is pulled: the plain limit or the comparison, by which of them sees it first
ERRORS = re.compile("of its requests failed|worse than the champion in errors")


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock that stands still: the noise of the machine is not what these tests are about."""
    clock = FakeClock()
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(trial_module, "WRITE_S", 0.0)
    return clock


def make_side(asked: int, name: str = "canary") -> SideCounts:
    """Figures of as many callers as requests."""
    made = SideCounts()
    for n in range(asked):
        made.add(f"{name} {n}", 1.0, 5, 5)
    return made


def count_requests(sides: TrialCounts) -> int:
    return sides.canary.requests + sides.champion.requests


def read_end(world: Any) -> dict[str, Any]:
    """How the trial ended: the last change in the history, of which there is an event too."""
    change = world.registry.history()[-1]
    (event,) = world.stored("llmops.canary")
    assert "canary" not in change["aliases"] and change["numbers"] == event["llmops.canary.numbers"]
    return change


def test_the_same_callers_are_drawn_again_and_a_larger_share_adds_others() -> None:
    def find_drawn(version: str, share: float) -> set[int]:
        return {n for n in range(5000) if is_drawn_to_canary(f"{n:08x}", Canary(version, share, "now"))}

    some, more = find_drawn("v2", 0.1), find_drawn("v2", 0.3)
    assert some == find_drawn("v2", 0.1) < more
    assert len(some) == pytest.approx(500, abs=100) and len(more) == pytest.approx(1500, abs=150)
    assert len(some & find_drawn("v3", 0.1)) < 100  # not the same callers try everything


async def test_each_caller_stays_on_one_side_and_a_header_forces_the_other(world: Any, still: FakeClock) -> None:
    async with world.models() as models:
        await world.canary(models)
        versions = {caller: await world.ask(models, caller) for caller in map(str, range(40))}
        assert set(versions.values()) == {"v1", "v2"}
        assert versions == {caller: await world.ask(models, caller) for caller in versions}
        for forced, version in {"canary": "v2", "v2": "v2", "champion": "v1", "v1": "v1"}.items():
            assert {await world.ask(models, caller, forced) for caller in ("0", "1", "2")} == {version}
        rollout.stop(world.registry, world.events, by="test", why="enough")
        await world.until(lambda: models.canary is None)
        assert {await world.ask(models, caller) for caller in versions} == {"v1"}
        await world.until(lambda: not world.engines["v2"][0].get_stats().alive)


@pytest.mark.parametrize(
    ("wrong", "prompt", "worse"),
    [
        ("fails at the first word", "bad two", "errors"),
        ("refuses", "one two three four", "errors"),
        ("leaks", "one two", "rejections"),
        ("is slow", "one two", "latency"),
    ],
)
async def test_a_bad_canary_is_pulled_and_no_caller_notices(
    world: Any, still: FakeClock, leaking: Any, wrong: str, prompt: str, worse: str
) -> None:
    """The champion stands in, or the guard keeps the answer back."""

    class Timed(EchoEngine):
        seconds = 0.005

        def _step(self, rows: list[EchoRow]) -> None:
            still.advance(self.seconds)
            super()._step(rows)

    class Slow(Timed):
        seconds = 0.1

    world.make["v2"] = leaking if wrong == "leaks" else lambda: EchoEngine(max_context=3, fail_on="bad")
    if wrong == "is slow":
        world.make = {"v1": Timed, "v2": Slow}
    async with world.models() as models:
        tasks = 1 if wrong == "is slow" else 8  # one at a time: they share the clock
        async with world.load(models, lambda n: prompt if n % 3 == 0 else "one two", tasks) as result:
            await world.canary(models, share=0.3)
            await world.until(lambda: world.registry.canary() is None)
            await world.until(lambda: set(result.answered[-8:]) == {"v1"})
        assert result.failed == [] and "v2" in result.answered
    change = read_end(world)
    assert change["by"] == "serving" and worse in change["why"]
    assert change["numbers"]["champion"]["failed"] == 0


async def test_an_answer_that_has_begun_is_not_begun_again(world: Any, still: FakeClock) -> None:
    """It fails at the second word: those failures reach their callers, and nothing else does."""
    world.make = {"v2": lambda: EchoEngine(token_s=0.002, fail_on="bad"), "v1": lambda: EchoEngine(token_s=0.002)}
    async with world.models() as models:
        async with world.load(models, lambda n: "two bad" if n % 3 == 0 else "two good") as result:
            await world.canary(models, share=0.3)
            await world.until(lambda: world.registry.canary() is None)
            failed, answered = len(result.failed), len(result.answered)
            await world.until(lambda: len(result.answered) >= answered + 60)
        assert {str(error) for error in result.failed} == {"The word 'bad' was said."}
        assert len(result.failed) <= failed + 8  # only what was on its way when it was pulled
    assert "errors" in read_end(world)["why"]


async def test_a_canary_whose_engine_dies_is_pulled_and_the_champion_stands_in(world: Any, still: FakeClock) -> None:
    async with world.models() as models:
        await world.canary(models, share=0.999)
        engine = world.engines["v2"][0]
        engine.may_step.clear()
        waiting = [asyncio.create_task(world.ask(models, str(n))) for n in range(8)]  # too few for a look
        forced = asyncio.create_task(world.ask(models, "0", "canary"))
        await asyncio.sleep(0)
        engine.die(RuntimeError("out of memory"))
        assert await asyncio.gather(*waiting) == ["v1"] * 8
        with pytest.raises(EngineDied):
            await forced
        await world.until(lambda: world.registry.canary() is None)
        assert len(world.engines["v2"]) == 1 and models.explain() == ""
    assert "died" in read_end(world)["why"]


@pytest.mark.parametrize("gone", ["no room", "before the start", "while it answers"])
async def test_a_canary_that_cannot_be_loaded_is_pulled_and_takes_the_champion_from_nobody(
    world: Any, gone: str
) -> None:
    if gone == "no room":
        world.make = {"v2": lambda: EchoEngine(load_error=MemoryError("no room"))}
    folder = world.registry.get("v2").path
    rollout.start(world.registry, world.events, "v2", 0.5, by="test", why="try")
    if gone == "before the start":
        shutil.rmtree(folder)
    async with world.models() as models:
        if gone == "while it answers":
            await world.until(lambda: models.canary)
            shutil.rmtree(folder)
        await world.until(lambda: world.registry.canary() is None)
        assert models.explain() == "" and await world.ask(models) == "v1"
    assert "loaded" in read_end(world)["why"]


async def test_an_app_that_takes_no_part_in_trials_neither_loads_nor_pulls_a_canary(world: Any) -> None:
    world.make = {"v2": lambda: EchoEngine(load_error=MemoryError("no room"))}
    proof = Models(world.registry, world.engine, 0.01, world.events, Guard(("SECRET",)), trials=False)
    rollout.start(world.registry, world.events, "v2", 0.5, by="test", why="try")
    proof.start()
    await world.until(lambda: proof.champion)
    assert await world.ask(proof) == "v1" and world.registry.canary()
    world.registry.promote("v3")  # it follows the champion all the same
    await world.until(lambda: proof.champion.version.name == "v3")
    assert "v2" not in world.engines
    await proof.stop()


async def test_what_a_canary_has_no_room_for_the_champion_answers_and_it_counts_until_it_is_pulled(
    world: Any, still: FakeClock
) -> None:
    world.make = {"v2": lambda: EchoEngine(max_queue=0, max_batch=1)}
    async with world.models() as models:
        await world.canary(models)
        drawn = next(caller for caller in map(str, count()) if models.choose(caller).version.name == "v2")
        engine = world.engines["v2"][0]
        engine.may_step.clear()
        kept = asyncio.create_task(world.ask(models, drawn))
        await asyncio.sleep(0)
        assert await world.ask(models, drawn) == "v1"
        with pytest.raises(QueueFull):
            await world.ask(models, drawn, "canary")  # it was asked for
        with pytest.raises(QueueFull):  # token ids are of one version
            await world.ask(models, drawn, prompt=TokenIds((1, 2)))
        async with world.load(models) as result:
            await world.until(lambda: models.canary is None)
        assert result.failed == [] and set(result.answered) == {"v1"}
        engine.may_step.set()
        assert await kept == "v2"
        await world.until(lambda: world.registry.canary() is None)
    assert read_end(world)["numbers"]["canary"]["refused"]


async def test_what_a_caller_does_wrong_or_forces_and_what_the_champion_answers_instead_do_not_count(
    world: Any, still: FakeClock
) -> None:
    world.make = {"v1": lambda: EchoEngine(max_context=3), "v2": lambda: EchoEngine(max_context=3, fail_on="bad")}
    async with world.models() as models:
        await world.canary(models, share=0.999)
        for caller in map(str, range(20)):
            with pytest.raises(RuntimeError):
                await world.ask(models, caller, "canary", prompt="bad")
            with pytest.raises(PromptRefused):
                await world.ask(models, caller, prompt="one two three four")
        own = models._trial.own_counts
        assert models.canary and own.canary.requests == 0
        assert await world.ask(models, prompt="bad") == "v1"
        assert (own.canary.total("failed"), own.champion.requests) == (1, 0)


async def test_a_request_that_is_given_up_counts_and_one_begun_before_the_trial_does_not(
    world: Any, still: FakeClock
) -> None:
    async with world.models() as models:
        world.engines["v1"][0].may_step.clear()
        early = asyncio.create_task(world.ask(models))
        await asyncio.sleep(0)
        await world.canary(models)
        world.engines["v2"][0].may_step.clear()
        given = [models.generate(EngineRequest(Question("one"), 5), caller=str(n)) for n in range(8)]
        readers = [asyncio.create_task(one.collect()) for one in given]
        await asyncio.sleep(0)
        for one in given:
            one.push(ClientLeft())
            one.cancel()
        assert {type(end) for end in await asyncio.gather(*readers, return_exceptions=True)} == {ClientLeft}
        for engines in world.engines.values():
            engines[0].may_step.set()
        own = models._trial.own_counts
        assert await early == "v1"
        assert own.canary.total("left") + own.champion.total("left") == count_requests(own) == 8


@pytest.mark.parametrize(
    ("canary", "prompts", "failed"),
    [
        (partial(EchoEngine, fail_on="bad"), ["one", "bad two", "three"], 1),
        (partial(EchoEngine, max_context=2), ["one", "two", "three four five"], 1),
        (partial(EchoEngine), ["one", "two", "three"], 0),
    ],
)
async def test_all_answers_of_a_request_are_of_one_version(
    world: Any, still: FakeClock, canary: Any, prompts: list[str], failed: int
) -> None:
    """If the canary fails or refuses one of them, the champion gives all, and the trial counts that one."""
    world.make["v2"] = canary
    async with world.models() as models:
        await world.canary(models, share=0.999)
        begun = [models.generate(EngineRequest(Question(one), 5), caller="a") for one in prompts]
        streams = await stream.unite_streams(begun)
        answers = [await one.collect() for one in streams]
        assert [answer.text for answer in answers] == prompts
        assert {one.version.name for one in streams} == ({"v1"} if failed else {"v2"})
        own = models._trial.own_counts
        assert own.canary.total("failed") == failed and own.champion.requests == 0


async def test_a_full_canary_gives_all_answers_of_a_request_away(world: Any, still: FakeClock) -> None:
    world.make["v2"] = partial(EchoEngine, max_queue=0, max_batch=1)
    async with world.models() as models:
        await world.canary(models, share=0.999)
        begun = [models.generate(EngineRequest(Question("one"), 5), caller="a") for _ in range(3)]
        assert {one.version.name for one in begun} == {"v1", "v2"}
        streams = await stream.unite_streams(begun)
        assert [(await one.collect()).text for one in streams] == ["one"] * 3
        assert {one.version.name for one in streams} == {"v1"}


async def test_another_trial_of_the_same_version_begins_at_nothing(world: Any, still: FakeClock) -> None:
    async with world.models() as models:
        await world.canary(models)
        for n in range(20):
            await world.ask(models, str(n))
        second = rollout.start(world.registry, world.events, "v2", 0.6, by="test", why="more").started
        await world.until(lambda: models._trial and models._trial.canary.started == second)
        assert models._trial.own_counts.canary.requests == 0 and len(world.engines["v2"]) == 1


async def test_one_replica_pulls_for_all_and_their_counts_are_added(world: Any, still: FakeClock) -> None:
    world.make = {"v2": lambda: EchoEngine(fail_on="bad")}
    async with world.models(replicas=2) as (one, two):
        trial = await world.canary(one)
        await world.until(lambda: two.canary)
        for models in (one, two):
            for n in range(20):
                await world.ask(models, str(n))
        await world.until(lambda: count_requests(trials.read_counts(world.registry, trial)) == 40)
        async with world.load(one, lambda n: "bad"):
            await world.until(lambda: two.canary is None and one.canary is None)
        assert [len(world.engines[name]) for name in ("v1", "v2")] == [2, 2]
        decision = rollout.conclude(world.registry, world.events, trial, Rules(), by="test")
        assert decision["outcome"] == "over" and ERRORS.search(decision["why"])
    read_end(world)


async def test_while_the_database_is_away_the_app_serves_and_goes_on_with_its_own_counts(
    world: Any, still: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted meanwhile is in the pool once it is back; a canary that fails meanwhile is asked no more."""
    away, database = set[str](), world.registry.database

    def fail_sometimes(name: str, work: Callable[[], Any]) -> Any:
        if name in away:
            raise StateUnavailable("The database is away.")
        return work()

    for name in ("change", "read"):
        monkeypatch.setattr(database, name, partial(fail_sometimes, name, getattr(database, name)))
    world.make = {"v2": lambda: EchoEngine(fail_on="bad")}
    async with world.models() as models:
        trial = await world.canary(models)
        for n in range(8):
            await world.ask(models, str(n))
        away |= {"change", "read"}
        await world.until(models.explain)
        for n in range(8, 40):
            await world.ask(models, str(n))
        assert models.canary and "registry" in models.explain()
        away.clear()
        await world.until(lambda: count_requests(trials.read_counts(world.registry, trial)) == 40)
        away.add("change")  # what it has can be read, as on a full disk
        async with world.load(models, lambda n: "bad") as result:
            await world.until(lambda: models.canary is None)
            await world.until(lambda: set(result.answered[-20:]) == {"v1"})
            assert result.failed == [] and world.registry.canary() and "written" in models.explain()
            away.clear()
            await world.until(lambda: world.registry.canary() is None and not models.explain())
    assert ERRORS.search(read_end(world)["why"])
