"""The app: one local page on which a sound is hidden in part, drawn again by a model, and compared.

sources.py         what can be chosen: models and sounds
state.py           what the page keeps of a visitor
stage.py           what the stage is given: pictures, sounds, a painted mask
reconstruction.py  from an excerpt and a mask to the record and its figures
code.py            the Python lines that make the same
views/             the tabs under the stage, one file each: how one is made stands there
handlers.py        what happens when something is touched
endpoints.py       what programs may ask for
address.py         what the page's address asks for
page.py            what lies where
temporary.py       where visitors' files are kept, and how they go
received.py        what visitors may send
gate.py            what every request has to pass
serve.py           the server
"""

from ssast_lab.app.serve import main
from ssast_lab.app.sources import find_models

__all__ = ["find_models", "main"]
