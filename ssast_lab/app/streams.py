"""That no answer is lost between two streams.

A page hears the answers to its questions in a stream, which gradio closes as soon as none is open, and which the page opens anew with
its next question, if by then it knows that the stream is closed. A question that was asked just while it was being closed was
never answered; and as an answer often leads to the next question, that is when they come. Hence a page's stream stays open until
nothing was asked for some seconds; and whoever asks just while one is being closed is told a moment later that the question has come in.
"""

import asyncio
import math
import time
from typing import Any

IDLE = 5.0  # seconds without a question after which a page's stream is closed: a browser opens six connections to one server
JUST = 1.0  # seconds since a stream was closed
MOMENT = 0.3  # seconds in which its close reaches whoever listens


class Open(set[str]):
    """A visitor's questions that are not answered yet."""

    page = False  # whether a page asks them, or a program
    answered = -math.inf  # when the last answer was given
    closed = -math.inf  # when a stream last found no question: it closes then
    look_again: Any = staticmethod(lambda: None)  # has the stream count once more

    def remove(self, question: str) -> None:
        super().remove(question)
        self.answered = time.monotonic()

    def __bool__(self) -> bool:
        return super().__len__() > 0

    def __len__(self) -> int:
        """As the stream is told: a page's next question is counted before it is asked."""
        if self:
            return super().__len__()
        now = time.monotonic()
        if self.page and now - self.answered < IDLE:
            asyncio.get_running_loop().call_later(IDLE, self.look_again)
            return 1
        self.closed = now
        return 0


class Visitors(dict[str, set[str]]):
    def __setitem__(self, visitor: str, questions: set[str]) -> None:
        super().__setitem__(visitor, questions if isinstance(questions, Open) else Open(questions))


def hold(queue: Any) -> None:
    """Changes in gradio's queue when a stream is closed, and when a question is said to have come in."""
    from gradio.server_messages import ProcessCompletedMessage

    visitors = queue.pending_event_ids_session = Visitors()
    push = queue.push

    def look_again(visitor: str) -> None:
        messages = queue.pending_messages_per_session.get(visitor)
        if messages is not None and not visitors.get(visitor):
            messages.put_nowait(ProcessCompletedMessage(event_id="none", output={}, success=True))

    async def pushed(body: Any, request: Any, username: Any) -> Any:
        result = await push(body, request, username)
        questions = visitors.get(body.session_hash)
        if isinstance(questions, Open):
            questions.page = request.headers.get("x-gradio-user") == "app"
            questions.look_again = lambda: look_again(body.session_hash)
            if time.monotonic() - questions.closed < JUST:
                await asyncio.sleep(MOMENT)
        return result

    queue.push = pushed
