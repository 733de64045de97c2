"""A headless Chromium, spoken to over a pipe in its own protocol; no library is needed for it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
          "--no-first-run", "--disable-background-networking", "--hide-scrollbars")  # fmt: skip
_BAD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


def path() -> str | None:
    """The browser of this machine; ``CHROMIUM`` names another."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. ``told`` collects what its console says, ``asked`` every address it fetches."""

    def __init__(self, profile: Path) -> None:
        theirs, self._ours = os.pipe()
        mine, answers = os.pipe()
        # Commands come in by descriptor 3 and answers go out by 4.
        script = f'exec "$@" 3<&{theirs} 4>&{answers}'
        command = [str(path()), *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command, "about:blank"],
            pass_fds=(theirs, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._answers = os.fdopen(mine, "rb")
        self._number, self._session = 0, ""
        self.told: list[str] = []
        self.asked: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        joined = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = joined["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Show a page; returns when it is loaded."""
        self.told.clear()
        self.asked.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        self._call("Page.navigate", url=page.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key goes down and up where the focus is."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                       windowsVirtualKeyCode=code, **text)  # fmt: skip

    def picture(self, place: Path) -> None:
        """The whole page as PNG."""
        image = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        place.write_bytes(base64.b64decode(image["data"]))

    def close(self) -> None:
        os.close(self._ours)
        self._answers.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._ours, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next message; what matters of the events is kept."""
        content = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("The browser ended.")
            content += byte
        message = json.loads(content)
        if message.get("method") in _BAD:
            self.told.append(json.dumps(message["params"])[:500])
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(message["params"]["request"]["url"])
        return message
