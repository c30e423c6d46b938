"""How the tests and the scripts beside them start Debian's Chromium."""

import shutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--use-fake-device-for-media-stream",
         "--use-fake-ui-for-media-stream"]  # a microphone that beeps  # fmt: skip


def launch(playwright):
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
