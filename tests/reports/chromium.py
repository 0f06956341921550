"""A headless Chromium, driven over its debugging pipe by the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"),
    "--remote-debugging-pipe",
)
_LONGEST = 180.0


class Chromium:
    """One browser; each page is a target of its own."""

    def __init__(self, home: Path) -> None:
        self._pipe, theirs = socket.socketpair()
        self._pipe.settimeout(_LONGEST)
        self._waiting = b""
        self._calls = 0
        self.events: list[dict[str, Any]] = []
        # Chromium reads commands from descriptor 3 and answers on 4.
        script = f'exec "$0" "$@" 3<&{theirs.fileno()} 4>&{theirs.fileno()}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, str(CHROMIUM), *_FLAGS, f"--user-data-dir={home}", "about:blank"],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """The result of one command; events that come meanwhile are kept."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self._pipe.sendall(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> dict[str, Any]:
        """The next event of a kind that has not been waited for."""
        while True:
            found = next((event for event in self.events if event.get("method") == method and event.get("sessionId") == session), None)
            if found is not None:
                self.events.remove(found)
                return found
            self.events.append(self._next())

    def close(self) -> None:
        """End this browser and its children."""
        self._pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def open(self, path: Path, place: str = "", **shape: Any) -> Page:
        """A page from a file, loaded; ``shape`` overrides width, height and colour scheme."""
        return Page(self, f"{path.resolve().as_uri()}{place}", **shape)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            received = self._pipe.recv(1 << 20)
            if not received:
                raise ConnectionError("chromium went away")
            self._waiting += received
        message, _, self._waiting = self._waiting.partition(b"\0")
        return json.loads(message)


class Page:
    """A loaded page: what it logs, what it asks of the network, what a script or a key does to it."""

    def __init__(
        self, browser: Chromium, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light", media: str = ""
    ) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.go(url)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command to this page."""
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        """Load another address."""
        self.call("Page.navigate", url=url)
        self._browser.wait_for("Page.loadEventFired", self._session)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, as a reader does."""
        codes = {"Tab": 9, "Enter": 13}
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], **({"text": "\r"} if key == "Enter" else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=codes[key])

    def settle(self) -> None:
        """Wait until what was asked for is done and drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")

    def complaints(self) -> list[Any]:
        """Everything that was logged, thrown, blocked or opened."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")
        return [event["params"] for event in self._mine() if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses asked for, the page's own excepted."""
        asked = [event["params"]["request"]["url"] for event in self._mine() if event["method"] == "Network.requestWillBeSent"]
        own = self.run("location.href").partition("#")[0]
        return [url for url in asked if url.partition("#")[0] not in (own, "about:blank")]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _mine(self) -> list[dict[str, Any]]:
        self.settle()
        return [event for event in self._browser.events if event.get("sessionId") == self._session]
