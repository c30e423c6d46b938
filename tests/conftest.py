"""What the tests share: small models, randomness that does not depend on their order, and a browser."""

import os
import shutil

import pytest
import torch
from chromium import launch

from ssast_lab.config import model_config
from ssast_lab.model import SSAST

torch.set_num_threads(1)  # the models are so small that threads mostly wait for each other


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session", params=["patch", "frame"])
def nano(request):
    """A small untrained model for 64 frames, of either shape of patch; not to be changed."""
    torch.manual_seed(1)
    return SSAST(model_config(f"nano-{request.param}", depth=2, frames=64)).eval()


@pytest.fixture(scope="session")
def browser():
    """One for all tests, as a process can have no two of them at a time."""
    if shutil.which("chromium") is None:
        reason = "no browser test was run: Debian's chromium is not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()
