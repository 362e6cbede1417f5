# coding: utf-8
"""Autobahn's fuzzing client for a server of frames, and what to expect of it: `wstest.py <spec> <log>`.

For Python 2.7, which is what Autobahn's test suite runs on.

A server of frames takes binary messages that are frames, and refuses text by design. So each text of a
case is sent as a binary message, and given to the case as a text when it comes back. Group 6, which is about
texts, is sent as it is: those that are UTF-8 are refused with 1003, others with 1007. What the suite prints goes
to the log.
"""

from __future__ import print_function

import json
import os
import sys

from autobahntestsuite import fuzzing, wstest

CONTINUATION, TEXT, BINARY = 0, 1, 2

# Their messages are empty, which no frame is.
EMPTY = ("1.1.1", "1.2.1", "9.7.1", "9.8.1")

Base = fuzzing.FuzzingClientProtocol


class Client(Base):
    def connectionMade(self):
        # Whether each message under way was a text, in the order of the echoes.
        self.texts = []
        self.is_text = False
        self.translates = not self.Case.__name__.startswith("Case6_")
        Base.connectionMade(self)

    def sendFrame(self, opcode, payload=b"", fin=True, rsv=0, mask=None, payload_len=None, **how):
        if self.translates and opcode in (CONTINUATION, TEXT, BINARY):
            if opcode != CONTINUATION:
                self.is_text = opcode == TEXT
                self.texts.append(self.is_text)
                opcode = BINARY
        Base.sendFrame(self, opcode, payload, fin, rsv, mask, payload_len, **how)

    def logTxFrame(self, header, *args):
        # A case counts the frames that it believes it has sent.
        if self.translates and header.opcode == BINARY and self.is_text:
            header.opcode = TEXT
        Base.logTxFrame(self, header, *args)

    def onMessage(self, payload, isBinary):
        if self.translates and isBinary:
            isBinary = not (self.texts and self.texts.pop(0))
        Base.onMessage(self, payload, isBinary)


def all_cases(spec):
    """The numbers of the cases that a specification asks for, in order."""
    suite = fuzzing.CaseSet(
        fuzzing.CaseSetname,
        fuzzing.CaseBasename,
        fuzzing.Cases,
        fuzzing.CaseCategories,
        fuzzing.CaseSubCategories,
    )
    return suite.parseSpecCases(spec)


def is_good(case, result):
    behavior, closing = result["behavior"], result["behaviorClose"]
    if case.startswith("6."):
        # The suite expects an echo of what is UTF-8. To find at the end of a message that it is not, rather
        # than at once, is what it calls non-strict.
        is_refused = behavior == "FAILED" and result["remoteCloseCode"] == 1003
        return is_refused or (behavior in ("OK", "NON-STRICT") and closing == "OK")
    if case in EMPTY:
        return result["remoteCloseCode"] == 1007
    # What the protocol leaves open is informational.
    return all(part in ("OK", "INFORMATIONAL") for part in (behavior, closing))


def main(spec, log):
    fuzzing.FuzzingClientProtocol = Client
    sys.argv[1:] = ["--mode", "fuzzingclient", "--spec", spec]
    with open(log, "w") as sys.stdout:
        wstest.run()
    sys.stdout = sys.__stdout__

    with open(spec) as file:
        spec = json.load(file)
    report = spec["outdir"]
    with open(os.path.join(report, "index.json")) as file:
        (results,) = json.load(file).values()
    bad = 0
    cases = all_cases(spec)
    for case in cases:
        # The suite ends early, and says nothing of it, when the server is gone.
        result = results.get(case)
        if result is None:
            print("%s: not played" % case)
        elif not is_good(case, result):
            parts = (case, result["behavior"], result["behaviorClose"], result["remoteCloseCode"])
            print("%s: %s, closing %s, code %s:" % parts, os.path.join(report, result["reportfile"]))
        else:
            continue
        bad += 1
    print("%d passed, %d failed" % (len(cases) - bad, bad))
    sys.exit(1 if bad else 0)


main(*sys.argv[1:])
