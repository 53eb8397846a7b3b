"""A headless Chromium for tests of pages: what it logs, what it requests, how the page looks.

It speaks the Chrome DevTools Protocol over a pipe, so that no package is needed beside the browser itself.
"""

import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """One page in a fresh profile; a context manager.

    Attributes:
      messages: what the console showed as warning or error, and exceptions that nothing caught.
      requests: addresses that the page asked for, its own file among them.
    """

    def __init__(self, profile: pathlib.Path):
        chromium = find_chromium()
        assert chromium
        here_out, there_in = os.pipe()[::-1]
        here_in, there_out = os.pipe()
        # The protocol wants descriptors 3 and 4; the shell moves ours there (through 8 and 9: they may be 3 or 4).
        moves = f'exec 8<&{there_in} 9>&{there_out}; exec "$@" 3<&8 4>&9'
        command = ["bash", "-c", moves, "bash", chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, pass_fds=(there_in, there_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(there_in)
        os.close(there_out)
        self.to_browser, self.from_browser = os.fdopen(here_out, "wb"), os.fdopen(here_in, "rb")
        self.pending, self.numbers, self.session = b"", itertools.count(1), None
        self.messages, self.requests, self.loaded = [], [], False

    def __enter__(self) -> "Browser":
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error) -> None:
        self.session = None
        self.call("Browser.close")
        self.process.wait(timeout=30)
        self.to_browser.close()
        self.from_browser.close()

    def call(self, method: str, **params):
        """Returns the browser's answer to one command; notes the events that come before it."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to_browser.write(json.dumps(message).encode() + b"\0")
        self.to_browser.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: pathlib.Path, width: int = 1200, height: int = 900, dark: bool = False, script: bool = True):
        """Opens a file at a width in CSS pixels and waits until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._receive()
        time.sleep(0.3)  # pictures are decoded after the load event

    def evaluate(self, expression: str):
        """Returns the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Presses a key of the keyboard, by its name and its Windows code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: pathlib.Path) -> None:
        """Writes the whole page as a PNG."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def _receive(self) -> dict:
        while b"\0" not in self.pending:
            part = os.read(self.from_browser.fileno(), 1 << 20)
            assert part, "the browser has gone"
            self.pending += part
        text, self.pending = self.pending.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, params: dict) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.messages.append(params["exceptionDetails"]["text"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.messages.append(str(params["args"]))
