"""A page in a real Chromium, over its DevTools protocol: what the browser tests open.

Run as a script (`.venv/bin/python lib/browser.py`), it takes README's picture from the published
explore.html.
"""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    *("--hide-scrollbars", "--remote-debugging-port=0"),
]
WIDTH = 1120
DRAWN = """new Promise((done) => {
  const look = () => (drawing ? setTimeout(look, 20) : done(runs.map((run) => run.count)));
  look();
})"""  # in explore.html: what was counted, once the run of draws is at its end


def chromium() -> str | None:
    """The system's Chromium or Chrome, if it has one."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


class Page:
    """An open page; `events` are what the browser told of it: requests, console, errors."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self.socket, self.events, self.calls = socket, list[dict](), 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while (told := json.loads(self.socket.recv())).get("id") != self.calls:
            self.events.append(told)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        return told["result"]

    def value(self, script: str) -> Any:
        """What an expression is in the page, as JSON holds it; a promise is waited for."""
        got = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in got:
            raise RuntimeError(got["exceptionDetails"])
        return got["result"].get("value")

    def key(self, name: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Page]:
    """`path` in a fresh profile, loaded to its end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium(), *FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},900"]
        process = subprocess.Popen([*command, "about:blank"], stderr=subprocess.DEVNULL)
        try:
            told = Path(profile, "DevToolsActivePort")
            while not (told.exists() and told.read_text().count("\n")):
                time.sleep(0.05)
                if process.poll() is not None:
                    raise RuntimeError("Chromium ended at once")
            listed = f"http://127.0.0.1:{told.read_text().split()[0]}/json/list"
            with urllib.request.urlopen(listed) as answer:
                [target] = [each for each in json.load(answer) if each["type"] == "page"]
            address = target["webSocketDebuggerUrl"]
            page = Page(websocket.create_connection(address, suppress_origin=True, timeout=120))
            for domain in ("Network", "Log", "Runtime", "Page"):
                page.call(f"{domain}.enable")
            page.call("Page.navigate", url=path.resolve().as_uri())
            while page.value("document.readyState") != "complete":
                time.sleep(0.05)
            yield page
            page.socket.close()
        finally:
            process.terminate()
            process.wait()


def assert_silent(page: Page) -> None:
    """The console said nothing, and nobody was asked: only the page and its icon."""
    told = {event["method"] for event in page.events}
    assert not told & {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
    sent = [e["params"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert {params["request"]["url"].split(":")[0] for params in sent} <= {"file", "data"}


def picture(source: Path, target: Path, scheme: str = "light") -> None:
    """explore.html from top to bottom, after 50,000 draws, with the one latent moved that turns
    Kleene's implication into Łukasiewicz's: they differ in one entry."""
    with opened(source) as page:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        page.value(
            "giveTable(tableOf(Object.keys(names).find((i) => names[i].startsWith('Kleene'))))"
        )
        page.value("document.querySelectorAll('#active input')[4].focus()")
        page.key("End", 35)
        page.value("draw()")
        page.value(DRAWN)
        page.value("document.activeElement.blur()")
        height = page.value("document.documentElement.scrollHeight")
        page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        target.write_bytes(base64.b64decode(page.call("Page.captureScreenshot")["data"]))


if __name__ == "__main__":
    named = re.search(r"reports/[\w/-]+/explore(?=\.html)", Path("README.md").read_text("utf-8"))
    if chromium() is None:
        raise SystemExit("The picture needs Chromium or Chrome, and there is none on this machine.")
    published = Path(f"{named[0]}.html")
    picture(published, published.with_suffix(".png"))
    print(published.with_suffix(".png"))
