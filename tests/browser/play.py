"""Plays with the page of the example ws_page, and reads what it shows: `play.py <program>`.

The browser is driven by WebDriver, which is JSON over HTTP, so Python's own library is enough.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

# How long anything may take that is waited for, in seconds; and all of it.
PATIENCE = 20
WHOLE = 180

GREETING = ["2", "21", "DoConnection BEGIN..."]
PONG = ["0", "18", "ping...ping...ping"]
HELLO = ["1", "22", "Hello Zinx Router V0.8"]


class Failure(Exception):
    """What was to be seen, and what was seen instead."""


def until(what, look):
    """Looks until there is something, and answers that."""
    end = time.monotonic() + PATIENCE
    while not (seen := look()):
        if time.monotonic() > end:
            raise Failure(f"not within {PATIENCE} s: {what}")
        time.sleep(0.02)  # from one look to the next
    return seen


def expect(what, seen, wanted):
    if seen != wanted:
        raise Failure(f"{what}: {seen!r} in place of {wanted!r}")


class Program:
    """A program in a session of its own, so that nothing it started can outlive the test."""

    def __init__(self, folder, *command):
        self.name = pathlib.Path(command[0]).name
        self.output = folder / f"{self.name}.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def said(self):
        return self.output.read_text(errors="replace")

    def says(self, pattern):
        """What the group of this pattern matches in the output, as soon as it does."""

        def look():
            if found := re.search(pattern, self.said()):
                return found
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.said()}")
            return None

        return until(f"{self.name} says {pattern!r}", look)[1]

    def stop(self):
        """Asks it to end, and answers how it did."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {PATIENCE} s") from None

    def kill(self):
        """Ends all of its session. A browser's processes make groups of their own."""
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The fields after the name, which may contain anything: state, parent, group, session.
                session = int(stat.read_text().rpartition(")")[2].split()[3])
                if session == self.process.pid:
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        self.process.kill()  # where there is no /proc
        self.process.wait()


class Browser:
    """A headless Chromium, by way of its driver."""

    def __init__(self, port, folder, **more):
        self.port = port
        self.session = ""
        # The only page it opens is ours, and a container seldom lets it make a sandbox.
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        options = {"args": [*arguments, f"--user-data-dir={folder / 'profile'}"]}
        for name in ("chromium", "chromium-browser", "google-chrome"):
            if binary := shutil.which(name):
                options["binary"] = binary
                break
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"pageLoad": PATIENCE * 1000, "script": PATIENCE * 1000},
            **more,
        }
        session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session = f"/session/{session['sessionId']}"

    def ask(self, method, path, body=None):
        """One command of WebDriver: its value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * PATIENCE)
        with contextlib.closing(connection):
            text = json.dumps(body or {}) if method == "POST" else None
            connection.request(method, self.session + path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
        if answer.status != 200:
            raise Failure(f"{method} {path}: {value.get('error')}: {value.get('message')}")
        return value

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def script(self, text):
        return self.ask("POST", "/execute/sync", {"script": f"return {text}", "args": []})

    def click(self, label):
        """Clicks the button with this label, which must be one that can be clicked."""
        xpath = f'//button[normalize-space()="{label}"]'
        (button,) = self.ask("POST", "/element", {"using": "xpath", "value": xpath}).values()
        until(f"{label} is enabled", lambda: self.ask("GET", f"/element/{button}/enabled"))
        self.ask("POST", f"/element/{button}/click")

    def state(self):
        return self.script('document.querySelector("[role=status]").innerText')

    def frames(self):
        """The rows that the page shows, oldest first: time, id, length, text, round trip."""
        rows = self.script(
            '[...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.innerText))'
        )
        return rows[::-1]

    def complaints(self):
        """What the console says is wrong, since the last time it was asked."""
        log = self.ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]

    def shows_state(self, pattern):
        until(f"the state {pattern!r}", lambda: re.fullmatch(pattern, self.state()))

    def shows_frames(self, *wanted):
        until(f"{len(wanted)} frames", lambda: len(self.frames()) >= len(wanted))
        expect("the frames shown", [row[1:4] for row in self.frames()], list(wanted))
        for row in self.frames():
            trip = r"–" if row[1:4] == GREETING else r"\d+\.\d ms"
            if not (re.fullmatch(trip, row[4]) and row[0]):
                raise Failure(f"time and round trip of {row}")

    def new_tab(self):
        """Opens a tab and goes there: its name, and the name of the one before."""
        before = self.ask("GET", "/window")
        self.ask("POST", "/window", {"handle": (tab := self.ask("POST", "/window/new")["handle"])})
        return tab, before


def get(port, path, method="GET", host="127.0.0.1"):
    """What the page's server answers: status, headers, body."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def nothing_but_the_page_is_served(port):
    status, headers, body = get(port, "/")
    expect("the page's status", status, 200)
    policy = headers["Content-Security-Policy"]
    if "default-src 'none'" not in policy or "unsafe" in policy:
        raise Failure(f"the page's policy is {policy!r}")
    if get(port, "/")[1]["Content-Security-Policy"] == policy:
        raise Failure("two answers have one nonce")
    if "{{" in body:
        raise Failure("something is left to be filled in")
    expect("HEAD of the page", get(port, "/", "HEAD")[::2], (200, ""))
    expect("another path", get(port, "/page.html")[0], 404)
    expect("another method", get(port, "/", "POST")[0], 405)


def ping_and_hello_are_answered(browser, url):
    browser.open(url)
    expect("the state before", browser.state(), "not connected")
    browser.click("Connect")
    browser.shows_state(r"connected to ws://127\.0\.0\.1:\d+/play, which speaks zinx\.ltv-le")
    browser.shows_frames(GREETING)
    browser.click("Ping")
    browser.shows_frames(GREETING, PONG)
    browser.click("Hello")
    browser.shows_frames(GREETING, PONG, HELLO)


def who_leaves_may_come_back(browser):
    browser.click("Disconnect")
    browser.shows_state("disconnected: code 1000")
    browser.click("Connect")
    browser.shows_frames(GREETING, PONG, HELLO, GREETING)
    browser.click("Hello")
    browser.shows_frames(GREETING, PONG, HELLO, GREETING, HELLO)
    expect("complaints of the browser", browser.complaints(), [])


def a_page_of_another_origin_is_refused(browser, server, port):
    other = f"http://localhost:{port}"
    tab, before = browser.new_tab()
    browser.open(f"{other}/")
    browser.click("Connect")
    browser.shows_state(rf"could not connect: .* admits no pages of {re.escape(other)} \(code 1006\)")
    expect("the frames of a page that was refused", browser.frames(), [])
    # The page cannot know why, but the server says it.
    server.says("(pages of this origin may not connect)")
    browser.ask("DELETE", "/window")
    browser.ask("POST", "/window", {"handle": before})


def a_stop_of_the_server_is_told(browser, server):
    browser.shows_state("connected to .*")
    code = server.stop()
    browser.shows_state("closed by the server: code 1001, “the server shuts down”")
    expect("how the server ended", code, 0)
    browser.click("Connect")
    browser.shows_state("could not connect: .*")


def play(program, folder, cleanup):
    server = Program(folder, program, "--page-port", "0", "--ws-port", "0")
    cleanup.callback(server.kill)
    url = server.says(r"open (http://\S+)")
    port = urllib.parse.urlsplit(url).port
    driver = Program(folder, "chromedriver", "--port=0")
    cleanup.callback(driver.kill)
    browser = None

    def step(test, *args):
        test(*args)
        print(f"ok: {test.__name__.replace('_', ' ')}", flush=True)

    try:
        step(nothing_but_the_page_is_served, port)
        browser = Browser(int(driver.says(r"started successfully on port (\d+)")), folder)
        step(ping_and_hello_are_answered, browser, url)
        step(who_leaves_may_come_back, browser)
        step(a_page_of_another_origin_is_refused, browser, server, port)
        step(a_stop_of_the_server_is_told, browser, server)
        browser.ask("DELETE", "")
    except Exception:
        print(f"\n{server.name} said:\n{server.said()}", file=sys.stderr)
        with contextlib.suppress(Exception):
            print(f"The page showed: {browser.state()}", *browser.frames(), sep="\n", file=sys.stderr)
            print("The console said:", *browser.complaints(), sep="\n", file=sys.stderr)
        raise


def late(*_):
    raise Failure(f"the test as a whole took longer than {WHOLE} s")


def main(program):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, late)
    signal.alarm(WHOLE)
    try:
        with contextlib.ExitStack() as cleanup:
            # A browser that is being killed may still write into its profile.
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            play(program, pathlib.Path(cleanup.enter_context(folder)), cleanup)
    except (Failure, OSError) as failure:
        sys.exit(f"failed: {failure}")


if __name__ == "__main__":
    main(sys.argv[1])
