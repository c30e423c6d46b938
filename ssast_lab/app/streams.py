"""That no answer is lost between two streams.

A page hears the answers to its questions in a stream, which gradio closes when none is open, and which the page opens anew with its
next question, if by then it knows that the stream is closed. A question that was asked just while it was being closed was
never answered. Hence whoever asks then is told a moment later that the question has come in: after the close.
"""

import asyncio
import math
import time
from typing import Any

JUST = 0.2  # seconds since a stream found nothing to wait for
MOMENT = 0.1  # seconds in which its close reaches the page


class Open(set[str]):
    """A visitor's questions that are not answered yet."""

    found_none = -math.inf  # when a stream last looked and saw none: it closes then

    def __len__(self) -> int:
        count = super().__len__()
        if not count:
            self.found_none = time.monotonic()
        return count


class Visitors(dict[str, set[str]]):
    def __setitem__(self, visitor: str, questions: set[str]) -> None:
        super().__setitem__(visitor, questions if isinstance(questions, Open) else Open(questions))


def hold(queue: Any) -> None:
    """Changes in gradio's queue when a question is said to have come in."""
    visitors = queue.pending_event_ids_session = Visitors()
    push = queue.push

    async def pushed(body: Any, *more: Any, **named: Any) -> Any:
        result = await push(body, *more, **named)
        questions = visitors.get(body.session_hash)
        if isinstance(questions, Open) and time.monotonic() - questions.found_none < JUST:
            await asyncio.sleep(MOMENT)
        return result

    queue.push = pushed
