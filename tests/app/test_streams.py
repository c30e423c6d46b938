"""A question that is asked while the stream of answers is being closed is said to have come in only after the close."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from ssast_lab.app import streams


class Queue:
    """As much of gradio's as is changed."""

    def __init__(self):
        self.pending_event_ids_session = {}

    async def push(self, body):
        if body.session_hash not in self.pending_event_ids_session:
            self.pending_event_ids_session[body.session_hash] = set()
        self.pending_event_ids_session[body.session_hash].add(body.name)
        return True, body.name, ""


def asked(queue, name):
    """How many seconds it takes until a visitor knows that a question has come in."""
    question = SimpleNamespace(session_hash="a", name=name)
    with ThreadPoolExecutor(1) as other:  # in this thread the browser tests have a loop of their own
        began = time.monotonic()
        assert other.submit(lambda: asyncio.run(queue.push(question))).result() == (True, name, "")
        return time.monotonic() - began


def test_only_who_asks_just_after_a_close_waits(monkeypatch):
    queue = Queue()
    streams.hold(queue)
    asked(queue, "first")
    pending = queue.pending_event_ids_session["a"]
    pending.remove("first")
    assert len(pending) == 0  # as a stream finds before it closes
    assert asked(queue, "second") >= streams.MOMENT
    pending.found_none -= streams.JUST
    before, slept = asyncio.sleep, []
    monkeypatch.setattr(streams.asyncio, "sleep", lambda seconds: slept.append(seconds) or before(0))
    asked(queue, "third")
    assert not slept
    assert pending == {"second", "third"}


def test_it_is_kept_when_questions_are_taken_away():
    queue = Queue()
    streams.hold(queue)
    asked(queue, "first")
    queue.pending_event_ids_session["a"] -= {"first"}
    assert isinstance(queue.pending_event_ids_session["a"], streams.Open)
    assert not queue.pending_event_ids_session["a"]
