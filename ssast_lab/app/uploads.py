"""What visitors may send: whole sound files, as files. An address in their place is never fetched, and what did not arrive in
full is not kept."""

from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 50  # MB of a file


def guard() -> None:
    """Changes in gradio, where it has no setting, what becomes of what is sent to it; before the page is served."""
    from gradio import processing_utils, route_utils

    processing_utils.async_ssrf_protected_get = _refuse_address
    route_utils.GradioMultiPartParser = _parser(route_utils.GradioMultiPartParser)  # type: ignore[misc]


async def _refuse_address(url: str) -> Any:
    """In place of gradio's one way to fetch what a visitor names."""
    import gradio as gr

    raise gr.Error("This page fetches no addresses: save the sound and send the file.", print_exception=False)


def _parser(base: type[Any]) -> type[Any]:
    """Gradio's parser of uploads, which keeps a part of a file if its visitor leaves or the disk is full."""
    from starlette.formparsers import MultiPartException

    class Parser(base):  # type: ignore[misc]
        async def parse(self) -> Any:
            try:
                return await super().parse()
            except BaseException as error:
                for file in self._files_to_close_on_error:
                    with suppress(OSError):  # of what could not be written
                        file.close()
                    Path(file.name).unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise MultiPartException(
                        f"The file was not stored ({error.strerror}): its server lacks room."
                    ) from None
                if isinstance(error, MultiPartException) and "maximum allowed size" in error.message:
                    raise MultiPartException(
                        f"The file is larger than the maximum allowed size of {LARGEST} MB."
                    ) from None
                raise

    return Parser
