"""A headless Chromium, driven by the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 60
# The centre of an element, once it has been at one place for 200 ms and is what a click there reaches; else null.
_STILL = """(async () => {
    const centre = () => {
        const element = SCRIPT;
        const box = element.getBoundingClientRect();
        const place = [box.x + box.width / 2, box.y + box.height / 2];
        const reached = document.elementFromPoint(...place);
        return reached && element.contains(reached) ? place : null;
    };
    const before = centre();
    await new Promise(resolve => setTimeout(resolve, 200));
    return before && before.join() === centre().join() ? before : null;
})()"""


def find_browser() -> str | None:
    """Return the browser's path; None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One browser tab."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._number = 0

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Evaluate a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def try_evaluate(self, script: str) -> Any:
        """Evaluate a JavaScript expression; None if it fails, since the page may still be loading."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return None if "exceptionDetails" in answer else answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            value = self.try_evaluate(script)
            if value:
                return value
            time.sleep(0.2)
        raise AssertionError(f"{script} is not true after {_SECONDS} s; the page: {self.text()[:2000]}")

    def text(self) -> str:
        """Return the visible text of the page."""
        return str(self.evaluate("document.body.innerText"))

    def click(self, script: str) -> None:
        """Wait until the element that an expression returns lies still and uncovered, and click its centre.

        A list that unfolds moves its elements, so a click at an old place would reach another element.
        """
        x, y = self.wait_for(_STILL.replace("SCRIPT", script))
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Type into the focused element."""
        self._ask("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def logged(self) -> list[str]:
        """Return what the browser has logged of the page: errors, and requests that failed."""
        return asyncio.run(self._logged())

    async def _logged(self) -> list[str]:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._address) as socket:
            # Enabling the log sends all entries so far; the answer to the second request comes after them.
            for number, method in enumerate(("Log.enable", "Log.disable")):
                await socket.send_json({"id": number, "method": method})
            entries: list[str] = []
            async for message in socket:
                answer = json.loads(message.data)
                if answer.get("method") == "Log.entryAdded":
                    entries.append(answer["params"]["entry"]["text"])
                if answer.get("id") == 1:
                    return entries
        raise AssertionError("the browser closed the connection")

    def _ask(self, method: str, **params: Any) -> Any:
        return asyncio.run(self._asked(method, params))

    async def _asked(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._address, max_msg_size=1 << 26) as socket,
        ):
            await socket.send_json({"id": self._number, "method": method, "params": params})
            async for message in socket:
                answer = json.loads(message.data)
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer
                    return answer["result"]
        raise AssertionError(f"the browser didn't answer {method}")


@contextmanager
def opened_page(browser: str, folder: Path) -> Iterator[Page]:
    """Start a browser, which stores its profile in `folder`, and yield its tab."""
    command = [browser, "--headless=new", "--disable-gpu", "--no-first-run", "--window-size=1600,1000"]
    command += ["--no-sandbox", f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
    with (folder.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Page(asyncio.run(_first_tab(folder / "DevToolsActivePort")))
    finally:
        process.terminate()
        process.wait()


async def _first_tab(file: Path) -> str:
    """Return the address of the browser's first tab, once the browser has written its port."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{lines[0]}/json") as answer:
                return next(str(tab["webSocketDebuggerUrl"]) for tab in await answer.json() if tab["type"] == "page")
        await asyncio.sleep(0.1)
    raise AssertionError("the browser didn't start")
