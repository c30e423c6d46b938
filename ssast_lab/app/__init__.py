"""The app: one local page on which a sound is hidden in part, drawn again by a model, and compared.

private.py         what is one visitor's, under names that nobody else can guess
sources.py         what can be chosen: models and sounds
shelf.py           model files in the folders that the owner opened, and how each was read
trainings.py       visitors' trainings, each a process of its own
uploads.py         sounds that a view's script sent: files, folders and zips
maps.py            visitors' maps: windows of many sounds, embedded a slice at a time
state.py           what the page keeps of a visitor, and what all share
stage.py           the stage on the page: its scripts, its look, where it lies
reconstruction.py  from an excerpt and a mask to the record and its figures
code.py            the Python lines that make the same
handlers.py        what happens when something is touched
views/             the tabs under the stage, one file each: how one is made stands there
endpoints.py       what programs may ask for
address.py         what the page's address asks for
page.py            what lies where
temporary.py       where visitors' files are kept, and how they go
received.py        what visitors may send
streams.py         that no answer is lost between two streams
gate.py            what every request has to pass
serve.py           the server
"""

from ssast_lab.app.serve import main
from ssast_lab.app.sources import find_models

__all__ = ["find_models", "main"]
