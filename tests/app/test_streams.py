"""A page's stream of answers stays open between its questions; a question that is asked while one is being closed is said to have
come in only after the close."""

import asyncio
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from visitor import stage, until

from ssast_lab.app import streams


class Queue:
    """As much of gradio's as is changed."""

    def __init__(self):
        self.pending_event_ids_session = {}
        self.pending_messages_per_session = defaultdict(asyncio.Queue)

    async def push(self, body, request, username):
        if body.session_hash not in self.pending_event_ids_session:
            self.pending_event_ids_session[body.session_hash] = set()
        self.pending_event_ids_session[body.session_hash].add(body.name)
        return True, body.name, ""


def in_a_loop(work):
    """In this thread the browser tests have a loop of their own."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(lambda: asyncio.run(work())).result()


async def asked(queue, name, user="api"):
    """How many seconds it takes until a visitor knows that a question has come in."""
    body, request = SimpleNamespace(session_hash="a", name=name), SimpleNamespace(headers={"x-gradio-user": user})
    began = time.monotonic()
    assert await queue.push(body, request, None) == (True, name, "")
    return time.monotonic() - began


def held():
    queue = Queue()
    streams.hold(queue)
    return queue


def test_only_who_asks_just_after_a_close_waits(monkeypatch):
    slept, before = [], asyncio.sleep

    async def work():
        queue = held()
        await asked(queue, "first")
        pending = queue.pending_event_ids_session["a"]
        pending.remove("first")
        assert len(pending) == 0  # as a stream finds before it closes: a program's at once
        assert await asked(queue, "second") >= streams.MOMENT
        pending.closed -= streams.JUST
        monkeypatch.setattr(streams.asyncio, "sleep", lambda seconds: slept.append(seconds) or before(0))
        await asked(queue, "third")
        assert set(pending) == {"second", "third"}

    in_a_loop(work)
    assert not slept


def test_a_pages_stream_is_closed_when_nothing_was_asked_for_a_while(monkeypatch):
    monkeypatch.setattr(streams, "IDLE", 0.2)

    async def work():
        queue = held()
        await asked(queue, "first", "app")
        pending, messages = queue.pending_event_ids_session["a"], queue.pending_messages_per_session["a"]
        pending.remove("first")
        assert len(pending) == 1
        assert not pending
        message = await messages.get()  # upon which the stream looks again
        assert (message.event_id, message.msg.value) == ("none", "process_completed")
        assert len(pending) == 0

    in_a_loop(work)


def test_it_is_kept_when_questions_are_taken_away():
    async def work():
        queue = held()
        await asked(queue, "first")
        queue.pending_event_ids_session["a"] -= {"first"}
        assert isinstance(queue.pending_event_ids_session["a"], streams.Open)
        assert not queue.pending_event_ids_session["a"]

    in_a_loop(work)


def test_one_stream_serves_many_questions_and_ends_when_they_end(page):
    opened = []
    page.on("request", lambda request: opened.append(request) if "/queue/data" in request.url else None)
    until(page, "s.ready")
    for seed in range(1, 5):
        key = stage(page, "s.picture.data.key")
        page.get_by_label("Seed").fill(str(seed))
        until(page, f"s.ready && s.picture.data.key !== {key!r}")
    assert len(opened) <= 1  # the page's first, and one more where a slow machine left it alone for long
    with page.expect_event("requestfailed", lambda request: "/queue/data" in request.url):
        pass  # the page leaves it when it is closed
    with page.expect_request(lambda request: "/queue/data" in request.url):
        page.get_by_label("Seed").fill("9")
    figures = page.locator("#figures").inner_text()
    page.get_by_label("Seed").fill("10")
    page.wait_for_function("(before) => document.querySelector('#figures').innerText !== before", arg=figures)
