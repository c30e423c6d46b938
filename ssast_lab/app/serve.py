"""The server: who may see the page, and what stays on this machine."""

import argparse
import hmac
import ipaddress
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

from ssast_lab.app.page import build
from ssast_lab.app.shelf import Shelf
from ssast_lab.app.sources import find_models
from ssast_lab.app.stage import STATIC, head
from ssast_lab.app.state import Common

VISITORS = 64  # whose sounds are remembered at once
LARGEST_UPLOAD = "50mb"


def launch(page: "gr.Blocks", host: str, port: int, password: str | None) -> None:
    """Serves the page until interrupted, to nobody but who is allowed to see it, and sends nothing anywhere."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="gray", radius_size="sm", spacing_size="sm", text_size="md", font=fonts,
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )  # fmt: skip
    page.queue(max_size=64, default_concurrency_limit=4).launch(
        server_name=host, server_port=port, share=False, ssr_mode=False, max_file_size=LARGEST_UPLOAD, run_history=False,
        enable_monitoring=False, show_error=False, strict_cors=True, allowed_paths=[], footer_links=[], theme=theme,
        state_session_capacity=VISITORS, css_paths=STATIC / "app.css",
        head=head(), quiet=True, prevent_thread_lock=True,
        auth=(lambda user, given: hmac.compare_digest(given.encode(), password.encode())) if password else None,
    )  # fmt: skip
    print(f"SSAST Lab is at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="app.py", description="SSAST Lab: masked spectrogram models on your own sounds."
    )
    parser.add_argument("--host", default="127.0.0.1", help="another address than this machine's needs a password")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--password", help="asked of every visitor, with any user name")
    parser.add_argument("--models", type=Path, action="append", default=[], metavar="DIR",
                        help="a checkpoint folder, or a folder of them; may be given again")  # fmt: skip
    options = parser.parse_args(arguments)
    if not is_loopback(options.host) and not options.password:
        parser.error(f"--host {options.host} lets other machines in: choose a --password as well.")
    for folder in options.models:
        if not folder.is_dir():
            parser.error(f"--models {folder} is no folder.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="ssast-lab-") as folder:  # uploads and players' files; nobody else reads it
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": folder}
        with closing(Common(find_models(options.models), Shelf(options.models))) as common:
            launch(build(common), options.host, options.port, options.password)
