"""What visitors may send: numbers, and whole sound files. An address in the place of a file is never fetched, and what did not
arrive in full is not kept.

Gradio has no settings for these; its classes cannot be derived from either, as it writes a file beside the source of each.
"""

import errno
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 50  # MB of a file
NO_ROOM = "The file was not stored ({}): there is no room for it on the disk of this page."
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def guard() -> None:
    """Changes in gradio what becomes of what is sent to it, before the page is served."""
    import gradio as gr
    from gradio import processing_utils, route_utils

    processing_utils.async_ssrf_protected_get = _refuse_address
    processing_utils.async_move_files_to_cache = _told(processing_utils.async_move_files_to_cache)
    for control in (gr.Slider, gr.Number):
        control.preprocess = _within(control.preprocess)  # type: ignore[method-assign]
    route_utils.GradioMultiPartParser = _parser(route_utils.GradioMultiPartParser)  # type: ignore[misc]


async def _refuse_address(url: str) -> Any:
    """In place of gradio's one way to fetch what a visitor names."""
    import gradio as gr

    raise gr.Error("This page fetches no addresses: save the sound and send the file.", print_exception=False)


def _told(move: Callable[..., Any]) -> Callable[..., Any]:
    """Gradio's look at the files that a visitor names, with a sentence that tells no path of the server."""
    import gradio as gr

    async def moved(*named: Any, **options: Any) -> Any:
        try:
            return await move(*named, **options)
        except gr.Error:  # which is a sentence
            raise
        except (ValueError, OSError) as error:
            if not options.get("check_in_upload_folder"):  # it is a file of ours
                raise
            full = isinstance(error, OSError) and error.errno in FULL
            sentence = NO_ROOM.format(error.strerror) if full else "This is no file that was sent to this page."  # type: ignore[union-attr]
            raise gr.Error(sentence, print_exception=False) from None

    return moved


def _within(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """What is beyond an end of a slider is taken for this end: it may have been within when the page sent it."""
    import gradio as gr

    def within(self: Any, payload: Any) -> Any:
        if payload is None:
            return None
        if type(payload) not in (int, float) or not abs(payload) < math.inf:
            raise gr.Error(f"{self.label} is a number, not {str(payload)[:40]}.", print_exception=False)
        low = payload if self.minimum is None else max(payload, self.minimum)
        return preprocess(self, low if self.maximum is None else min(low, self.maximum))

    return within


def _parser(base: type[Any]) -> type[Any]:
    """Gradio's parser of uploads, which keeps a part of a file if its visitor leaves or the disk is full."""
    from starlette.formparsers import MultiPartException
    from starlette.requests import ClientDisconnect

    class Parser(base):  # type: ignore[misc]
        async def parse(self) -> Any:
            try:
                return await super().parse()
            except BaseException as error:
                for file in self._files_to_close_on_error:
                    with suppress(OSError):  # of what could not be written
                        file.close()
                    Path(file.name).unlink(missing_ok=True)
                if isinstance(error, ClientDisconnect):
                    raise MultiPartException("The file did not arrive in full.") from None
                if isinstance(error, OSError):
                    raise MultiPartException(NO_ROOM.format(error.strerror)) from None
                if isinstance(error, MultiPartException) and "maximum allowed size" in error.message:
                    raise MultiPartException(
                        f"The file is larger than the maximum allowed size of {LARGEST} MB."
                    ) from None
                raise

    return Parser
