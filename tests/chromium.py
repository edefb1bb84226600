"""A headless Chromium driven over its debugging pipe, without a network."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = {" ": ("Space", 32), "ArrowRight": ("ArrowRight", 39), "ArrowLeft": ("ArrowLeft", 37), "End": ("End", 35),
        "Home": ("Home", 36), "PageDown": ("PageDown", 34), "Enter": ("Enter", 13),
        "Escape": ("Escape", 27)}  # fmt: skip


def browser() -> str | None:
    """The Chromium that is installed here, None if there is none."""
    return next((b for b in map(shutil.which, ("chromium", "google-chrome", "chromium-browser")) if b), None)


def opened(profile: Path) -> Iterator[Tab]:
    """A tab for a fixture; skips the test where no Chromium is installed."""
    import pytest  # the benchmarks use a Tab without it

    if browser() is None:
        pytest.skip("no Chromium here")
    tab = Tab(profile)
    yield tab
    tab.close()


class Tab:
    """One page: `evaluate` scripts in it, `press` keys, take a `screenshot`; `requests` and `errors` are kept."""

    def __init__(self, profile: Path) -> None:
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                   "--no-first-run", "--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}",
                   "--remote-debugging-pipe", "about:blank"]  # fmt: skip
        here, self._out = os.pipe()
        self._in, there = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (here, there)]

        def connect() -> None:
            for n, end in enumerate(ends):
                os.dup2(end, 3 + n)

        self._process = subprocess.Popen(
            command, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        for end in (here, there, *ends):
            os.close(end)
        self._count, self._read, self._session = 0, b"", ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Do a command of the debugging protocol and wait for its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]  # type: ignore[no-any-return]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + 60
        while b"\0" not in self._read:
            assert select.select([self._in], [], [], max(end - time.monotonic(), 0))[0], "Chromium does not answer"
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium ended"
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def open(self, path: Path) -> None:
        self.send("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until an expression holds in the page."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            code, number = KEYS.get(key, ("", 0))
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
            self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a window of this size, with this preference for colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        return base64.b64decode(self.send("Page.captureScreenshot")["data"])

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait()
