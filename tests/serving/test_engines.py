"""The batching queue, and the transformers engine on a tiny random model."""

import threading

import pytest

from llmops import prompts
from serving.engines.base import Answer, Ask
from serving.engines.echo import EchoEngine
from serving.engines.transformers import TransformersEngine
from serving.errors import PromptRefused, QueueFull


class Watched(EchoEngine):
    """Waits for `go` before every batch, and notes the batches."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.go, self.batches = threading.Semaphore(0), []

    def _answer(self, asks):
        self.batches.append([ask.prompt for ask in asks])
        self.go.acquire()
        return super()._answer(asks)


def test_what_waits_is_answered_together_up_to_the_limit():
    engine = Watched(max_batch=3)
    engine.load()
    futures = [engine.generate(Ask("first", "", 5))]
    while not engine.batches:
        pass
    futures += [engine.generate(Ask(str(n), "", 5)) for n in range(4)]
    engine.go.release(3)
    assert [future.result(5).text for future in futures] == ["first", "0", "1", "2", "3"]
    assert engine.batches == [["first"], ["0", "1", "2"], ["3"]]
    engine.close()


def test_a_request_that_was_cancelled_is_not_answered():
    engine = Watched()
    engine.load()
    first = engine.generate(Ask("first", "", 5))
    while not engine.batches:
        pass
    second, third = engine.generate(Ask("second", "", 5)), engine.generate(Ask("third", "", 5))
    assert second.cancel()
    engine.go.release(2)
    assert first.result(5) and third.result(5)
    assert engine.batches[1] == ["third"]
    engine.close()


def test_closing_answers_what_waits_and_ends_the_thread():
    engine = Watched(max_batch=2)
    engine.load()
    futures = [engine.generate(Ask(str(n), "", 5)) for n in range(5)]
    engine.go.release(5)
    engine.close()
    assert [future.result(0).text for future in futures] == list("01234")
    assert not engine.stats().alive


def test_a_full_queue_refuses():
    engine = Watched(max_queue=2)
    engine.load()
    engine.generate(Ask("first", "", 5))
    while not engine.batches:
        pass
    for _ in range(2):
        engine.generate(Ask("x", "", 5))
    with pytest.raises(QueueFull) as refusal:
        engine.generate(Ask("x", "", 5))
    assert refusal.value.retry_after_s >= 1
    engine.go.release(9)
    engine.close()


def test_a_failed_load_is_told_and_leaves_no_thread(tmp_path):
    engine = TransformersEngine(tmp_path / "nothing", 4, 4)
    with pytest.raises(Exception, match="nothing"):
        engine.load()
    engine.close()
    assert not engine.stats().alive


@pytest.fixture(scope="module")
def engine(tiny_base):
    engine = TransformersEngine(tiny_base, max_queue=64, max_batch=8)
    engine.load()
    yield engine
    engine.close()


def test_each_request_of_a_batch_gets_its_own_length_and_usage(engine, tokenizer):
    asks = [Ask("Hello", "", 3), Ask("Where is my parcel, and when will it come?", "It is late.", 9), Ask("Hi", "", 6)]
    answers = engine._answer(asks)
    for ask, answer in zip(asks, answers, strict=True):
        assert isinstance(answer, Answer)
        assert answer.input_tokens == len(prompts.prompt_ids(tokenizer, ask.prompt, ask.context))
        assert answer.output_tokens <= ask.max_new_tokens
        assert (answer.finish_reason == "length") == (answer.output_tokens == ask.max_new_tokens)


def test_a_prompt_that_does_not_fit_is_refused_alone(engine):
    long, short = Ask("word " * 600, "", 4), Ask("Hi", "", 4)
    answers = [engine.generate(ask) for ask in (short, long, short)]
    assert answers[0].result(60).output_tokens <= 4
    with pytest.raises(PromptRefused, match="512"):
        answers[1].result(60)
    assert answers[2].result(60) == answers[0].result(60)


def test_a_long_prompt_and_a_long_answer_together_stay_within_the_context(engine, tokenizer):
    long = Ask("word " * 440, "", 4)
    assert len(prompts.prompt_ids(tokenizer, long.prompt)) + 4 <= 512
    answers = engine._answer([long, Ask("Hi", "", 100)])
    assert [type(answer) for answer in answers] == [Answer, Answer]
    assert answers[0].output_tokens <= 4
