"""The tabs under the stage: views of what is shown there, one file each.

view.py            what a view is, and how it is laid out and answered
masks.py           how often each patch is hidden
reconstruction.py  what the model drew, beside baselines that need no model
recognition.py     which hidden patch each prediction is taken for
attention.py       who attends to whom
versus.py          a patch and a frame model on the same sound
start.py           the pretext task in four steps
hiding.py          what the model makes of it as more and more is hidden
map.py             windows of many sounds as dots
train.py           a small model learns before the visitor's eyes
models.py          what is loaded, and how it was read

A view is a ``View`` in a file of its own here, and a script in ``static/`` that is named after it; ``VIEWS`` below lists them in
the order of their tabs, and nothing else has to know of them.

- In Python, ``look(seen, asked)`` is given what the stage shows (``seen``: model, excerpt, mask, reconstruction) and what the
  visitor asked for (``asked``: plain JSON from the view's script, to be trusted in nothing), and gives plain data. It is called
  when the tab is opened and whenever the shown picture changes while it is open, never else. It computes nothing itself:
  ``analysis`` does, and what is needed again of the same picture is kept by ``lru_cache`` on a function of ``seen``, which is
  one visitor's. A sentence for the visitor is raised as ``Refusal``. Values of the controls that the picture does not tell, such
  as the seed, are named in ``inputs`` and given after ``asked``.
- A view that is ``shared`` is given a ``Common`` after ``asked``: the models, the owner's folders, trainings. Whatever is one visitor's
  stands there under a name that only the visitor's browser was told (``private.py``).
- ``act(asked, common)`` gives a ``Wish``: another model or sound for the stage. Long work is done a slice at a time, each in the
  answer to a question, and the script asks for the next: so it shows what is there, ends when it is left, and others get their turn.
- In the browser, ``ssast.view(name, make)`` lays the panel out and fills it: how it speaks with the stage is said in
  ``static/views.js``. What answers a pointer is looked up there, without the server.
- What takes longer and may follow, such as sounds, is given by ``later(seen, asked)``, outside the model's queue.
- A view that needs parts of gradio's own (an upload, a table) lays them out in ``more(parts, common)``, below its panel.
"""

from ssast_lab.app.state import Common, Parts
from ssast_lab.app.views import attention, hiding, map, masks, models, recognition, reconstruction, start, train, versus
from ssast_lab.app.views.view import View, lay_out

VIEWS: list[View] = [
    start.VIEW,
    masks.VIEW,
    reconstruction.VIEW,
    recognition.VIEW,
    attention.VIEW,
    versus.VIEW,
    hiding.VIEW,
    map.VIEW,
    train.VIEW,
    models.VIEW,
]


def lay_out_views(parts: Parts, common: Common) -> None:
    """A tab for each view."""
    import gradio as gr

    with gr.Tabs(elem_id="views", selected=masks.VIEW.name):
        for view in VIEWS:
            with gr.Tab(view.title, id=view.name, elem_id=f"tab-{view.name}"):
                lay_out(view, parts, common)
                if view.more:
                    view.more(parts, common)
