"""The app: one local page on which a sound is hidden in part, drawn again by a model, and compared.

sources.py         what can be chosen: models and sounds
state.py           what the page keeps of a visitor
stage.py           what the stage is given: pictures, sounds, a painted mask
reconstruction.py  from an excerpt and a mask to the record and its figures
views/             the tabs under the stage, one file each: how one is made stands there
handlers.py        what happens when something is touched
page.py            what lies where
serve.py           the server
"""

from ssast_lab.app.serve import main
from ssast_lab.app.sources import find_models

__all__ = ["find_models", "main"]
