"""Take the screenshots of ``xlm explore`` for the README and the documentation.

    python scripts/take_screenshots.py MODEL [--codes CODES] [--output docs/images] [--text TEXT --word WORD]

writes ``explore-light.png``, ``explore-dark.png`` and ``explore-phone.png``. Needs the extras ``explore`` and
``browser``, and Chromium: ``/usr/bin/chromium``, or the program in the variable CHROMIUM.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = (
    "--no-sandbox",  # containers run as root, where Chromium's sandbox does not start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def serving(model: Path, codes: Path | None) -> Iterator[str]:
    """Serve ``xlm explore`` on a free port and yield its address."""
    more = [] if codes is None else ["--codes", str(codes)]
    command = [sys.executable, "-m", "xlm", "explore", str(model), "--port", "0", *more]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            messages = ""
            for line in process.stderr:
                messages += line
                if match := re.search(r"http://\S+", line):
                    yield match[0]
                    return
            raise SystemExit(f"xlm explore did not start:\n{messages}")
        finally:
            process.terminate()


@contextmanager
def open_page(browser: Browser, address: str, text: str, *, width: int, height: int, scheme: str) -> Iterator[Page]:
    """Yield the page in a window of its own, with the text scored."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=1.5 if width < 600 else 1,
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(address)
    page.fill("#text", text)
    expect(page.locator(".word")).to_have_count(len(text.split()) + 1)
    yield page
    context.close()


def continued(page: Page) -> None:
    """Continue the text, with a seed."""
    page.fill("#seed", "7")
    page.fill("#max-new-tokens", "30")
    page.click("#start")
    page.wait_for_selector("#take-over:not([hidden])", timeout=60_000)


def take(browser: Browser, address: str, folder: Path, text: str, word: str) -> None:
    """Take all screenshots, with this word selected."""
    for scheme in ("light", "dark"):
        with open_page(browser, address, text, width=1120, height=800, scheme=scheme) as page:
            page.click("#compare")
            expect(page.locator(".word")).to_have_count(2 * len(text.split()) + 2)
            continued(page)
            page.locator(".word", has_text=word).first.click()
            page.screenshot(path=folder / f"explore-{scheme}.png", full_page=True)
    with open_page(browser, address, text, width=390, height=844, scheme="light") as page:
        page.locator(".word", has_text=word).first.click()
        page.screenshot(path=folder / "explore-phone.png")


def main() -> None:
    """Take the screenshots and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--text", default="The old man sat down on a bench and began to", help="without its end")
    parser.add_argument("--word", default="bench", help="the one that is looked at")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with serving(arguments.model, arguments.codes) as address, sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        take(browser, address, arguments.output, arguments.text, arguments.word)
        browser.close()
    for picture in sorted(arguments.output.glob("explore-*.png")):
        print(f"{picture}: {picture.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
