"""What a view is, and how it is laid out and answered."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssast_lab.app import handlers
from ssast_lab.app.state import Common, Parts, Seen, Wish, told
from ssast_lab.checkpoint import CheckpointError

Asked = Mapping[str, Any]  # what a view's script asks for
Answer = dict[str, Any]  # plain data for it

ON_LOAD = """
const ask = (what) => (asked, ticket) => trigger(what, { asked, ticket });
const view = ssast.openView(%s, %s, element, ask("look"), ask("later"), { act: (asked) => trigger("act", { asked }), upload });
watch("value", () => view.answer(props.value));
"""


class Refusal(Exception):
    """A sentence that stands in a view's place."""


@dataclass(frozen=True)
class View:
    """A tab under the stage."""

    name: str  # of its script, and of its tab in the page
    title: str
    hint: str  # one line: what to look at
    look: Callable[..., Answer]  # of a Seen, an Asked, a Common if it is shared, and the values of the inputs
    later: Callable[..., Answer] | None = None  # what takes longer, such as sounds, and is asked for once it is shown
    inputs: tuple[str, ...] = ()  # parts of the page whose values it is given, too
    shared: bool = False  # whether it is given what all visitors share
    act: Callable[[Asked, Common], Wish] | None = None  # what it has the stage show, when its script asks for that
    code: str = ""  # the lines of Python that the open tab adds to those of the stage, with their names and SEED
    more: Callable[[Parts, Common], None] | None = None  # lays out parts of gradio's own below the panel


def lay_out(view: View, parts: Parts, common: Common) -> None:
    """The panel of a view, which is filled by its script with what ``look`` gives."""
    import gradio as gr

    script = ON_LOAD % (json.dumps(view.name), json.dumps(view.hint))
    panel = gr.HTML({}, html_template="", js_on_load=script, elem_id=f"view-{view.name}", apply_default_css=False)  # type: ignore[arg-type]

    def on_look(event: gr.EventData, seen: Seen | None, *values: Any) -> Answer:
        return answered(view, seen, told(event, "asked"), told(event, "ticket"), values, common)

    # Every question is answered in its turn: an event that is put off forgets what it was told.
    panel.look(
        on_look, parts.of("seen", *view.inputs), [panel], trigger_mode="multiple", show_progress="hidden",
        concurrency_id="model", concurrency_limit=1, api_visibility="private",
    )  # fmt: skip

    def on_later(event: gr.EventData, seen: Seen | None, *values: Any) -> Answer:
        ticket, asked = told(event, "ticket"), told(event, "asked")
        assert view.later is not None
        return {"ticket": ticket, "later": view.later(seen, checked(asked), *values) if seen else {}}

    if view.later:
        panel.later(
            on_later, parts.of("seen", *view.inputs), [panel], trigger_mode="multiple", show_progress="hidden",
            concurrency_id="sounds", concurrency_limit=1, api_visibility="private",
        )  # fmt: skip
    if view.act:
        connect_act(view, panel, parts, common)


def connect_act(view: View, panel: Any, parts: Parts, common: Common) -> None:
    """What a view has the stage show."""
    import gradio as gr

    outputs = ("model", "own", "builtin", *handlers.WITH_SOUND)

    def on_act(event: gr.EventData, *values: Any) -> dict[Any, Any]:
        assert view.act is not None
        try:
            wish = view.act(checked(told(event, "asked")), common)
        except Refusal as refusal:
            raise handlers.refusal(str(refusal), title=view.title) from None
        shown = handlers.on_wish(common.models, wish, *values)
        return {getattr(parts, name): value for name, value in shown.items() if name in outputs}

    panel.act(
        on_act, parts.of("own", "sound", "model", "window", "share", "blocks", "seed", "painted"), parts.of(*outputs),
        trigger_mode="multiple", show_progress="hidden", concurrency_id="model", concurrency_limit=1, api_visibility="private",
    )  # fmt: skip


def checked(asked: Any) -> Asked:
    return asked if isinstance(asked, dict) else {}


def answered(
    view: View, seen: Seen | None, asked: Any, ticket: Any, values: Sequence[Any] = (), common: Common | None = None
) -> Answer:
    """The answer to the question of a ``ticket``: the view's data, or a sentence as ``refused``."""
    if seen is None:
        return {"ticket": ticket, "refused": "This page forgot its sound in a long pause: choose one again."}
    try:
        return {"ticket": ticket, "key": seen.key} | view.look(
            seen, checked(asked), *([common] if view.shared else []), *values
        )
    except Refusal as refusal:
        return {"ticket": ticket, "key": seen.key, "refused": str(refusal)}
    except CheckpointError:
        return {"ticket": ticket, "key": seen.key, "refused": "This model can no longer be read: choose another one."}
