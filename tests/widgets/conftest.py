"""What the widgets' tests share: a real JupyterLab, a real browser, and notebooks of a few lines."""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120_000  # milliseconds, as other work may keep the machine busy


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """(address, token, folder of the notebooks) of a JupyterLab in a process of its own."""
    folder, state = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("lab")
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={token}",
        "--ServerApp.port_retries=0", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True", f"--notebook-dir={folder}",
    ]  # fmt: skip
    where = {f"JUPYTER_{name}": str(state / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    where |= {
        "JUPYTERLAB_SETTINGS_DIR": str(state / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
    }
    where |= {"JUPYTER_CONFIG_PATH": str(ROOT / "notebooks" / ".jupyter"), "IPYTHONDIR": str(state)}
    environment = os.environ | where | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (state / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api?token={token}", timeout=5):
                break
            time.sleep(0.2)
        assert process.poll() is None, (state / "log").read_text()
        yield address, token, folder
    finally:
        process.terminate()
        process.wait(60)


def write_notebook(path: Path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture
def opened(browser, lab, request):
    """Opens a notebook of the given cells in JupyterLab and runs them all: the page, which may ask nothing of other machines."""
    address, token, folder = lab
    contexts = []

    def open_notebook(*cells: str):
        name = f"{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower()).strip('-')}.ipynb"
        write_notebook(folder / name, *cells)
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        foreign: list[str] = []
        errors: list[str] = []
        contexts.append((context, foreign, errors))

        def gate(route):
            if urlsplit(route.request.url).hostname == "127.0.0.1":
                return route.continue_()
            foreign.append(route.request.url)
            return route.abort()

        context.route("**/*", gate)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/lab/workspaces/{name.removesuffix('.ipynb')}/tree/{name}?token={token}")
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        return page, folder

    yield open_notebook
    for context, foreign, errors in contexts:
        context.close()
        assert foreign == []
        assert errors == []
