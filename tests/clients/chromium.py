"""Chromium's WebSocket as the client, in an empty page: `chromium.py <url>...`."""

import contextlib
import http.server
import pathlib
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "browser"))

from play import Browser, Failure, Program  # noqa: E402: found by the line above

# Resolves to what went wrong, if anything did, and the names of the tests that passed before it.
SCRIPT = """
const [url, done] = arguments;
const names = [];
play(() => new WebSocket(url), (name) => names.push(name)).then(
    () => done([null, names]),
    (error) => done([error.message, names]),
);
"""


class EmptyPage(http.server.BaseHTTPRequestHandler):
    """A page of this machine: others may not connect to it unasked."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main(*urls):
    common = (HERE / "common.js").read_text()
    with contextlib.ExitStack() as cleanup:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        folder = pathlib.Path(cleanup.enter_context(folder))
        pages = cleanup.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage))
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        cleanup.callback(pages.shutdown)
        driver = Program(folder, "chromedriver", "--port=0")
        cleanup.callback(driver.kill)
        port = int(driver.says(r"started successfully on port (\d+)"))
        browser = Browser(port, folder, acceptInsecureCerts=True)
        browser.open(f"http://127.0.0.1:{pages.server_port}/")
        for url in urls:
            scheme = url.partition(":")[0]
            script = {"script": common + SCRIPT, "args": [url]}
            failure, names = browser.ask("POST", "/execute/async", script)
            for name in names:
                print(f"ok: Chromium, {scheme}: {name}", flush=True)
            if failure:
                raise Failure(f"{scheme}: {failure}")
        browser.ask("DELETE", "")


try:
    main(*sys.argv[1:])
except (Failure, OSError) as failure:
    sys.exit(f"failed: Chromium: {failure}")
