"""The stage on the page: its scripts, its look, and where it lies. What it is given and gives back is made in ``ssast_lab.stage``,
for the page and the notebooks alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

STATIC = Path(__file__).parent / "static"
# each needs those before it; then each view's
SCRIPTS = ("player.js", "picture.js", "view.js", "save.js", "stage.js", "views.js")
OWN = ("app.js", "address.js")  # the page's, which no other host of the stage needs
STYLES = ("stage.css", "views.css")  # then each view's

ON_LOAD = """
const stage = ssast.mount(element, {
  paint: (hidden, stroke) => trigger("paint", { hidden, stroke }),
  hear: () => trigger("hear"),
  code: (tab) => trigger("code", { tab, ticket: Date.now() }),
});
element.stage = stage;
keepInSight(element);
const show = () => props.value && props.value.key && stage.show(props.value);
watch("value", show);
show();
"""
ON_SOUNDS = """
watch("value", () => props.value && props.value.key && document.querySelector("#stage .stage").parentElement.stage.hear(props.value));
"""
ON_CODE = """
watch("value", () => props.value && props.value.lines && ssast.showCode(props.value.lines));
"""


def script() -> str:
    """All that draws and plays the stage and its views; it asks nothing of any other machine."""
    views = sorted({path.name for path in STATIC.glob("*.js")} - {*SCRIPTS, *OWN})
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in (*SCRIPTS, *views))


def style() -> str:
    """The look of the stage and the views."""
    more = sorted({path.name for path in STATIC.glob("*.css")} - {*STYLES, "app.css"})
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in (*STYLES, *more))


def head() -> str:
    """The scripts and the look of the stage and the views, and the page's own script."""
    # Not among the page's own styles, which gradio rewrites: it loses those that depend on the width of the stage.
    own = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in OWN)
    return f'<style id="ssast-style">{style()}</style><script id="ssast-script">{script()}\n{own}</script>'


def lay_out() -> tuple["gr.HTML", "gr.HTML", "gr.HTML"]:
    """The stage, and the parts of the page through which it is sent its sounds and its lines of Python."""
    import gradio as gr

    bare: dict[str, Any] = dict(html_template="", apply_default_css=False)
    stage = gr.HTML({}, js_on_load=ON_LOAD, elem_id="stage", **bare)  # type: ignore[arg-type]
    sounds = gr.HTML({}, js_on_load=ON_SOUNDS, visible="hidden", elem_id="sounds", **bare)  # type: ignore[arg-type]
    return stage, sounds, gr.HTML({}, js_on_load=ON_CODE, visible="hidden", elem_id="code", **bare)  # type: ignore[arg-type]
