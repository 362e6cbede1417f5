"""Python's package `websockets` as the client: `client.py <certificate> <url>...`."""

import asyncio
import ssl
import struct
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

ECHO = 1
CLOSE = 2

# How long anything may take that is waited for, in seconds.
PATIENCE = 20


class Failure(Exception):
    """What came, and what was to come instead."""


def frame(id, payload):
    """A frame as the server's default wire format has it."""
    return struct.pack("<II", len(payload), id) + payload


def expect(what, got, wanted):
    if got != wanted:
        raise Failure(f"{what}: {got!r:.100} in place of {wanted!r:.100}")


async def closed(client):
    """How the server closes: its code and text."""
    try:
        got = await client.recv()
    except ConnectionClosed as end:
        return (end.rcvd.code, end.rcvd.reason) if end.rcvd else None
    raise Failure(f"{got!r:.100} in place of a close")


async def messages_of_any_size_are_echoed(client):
    for length in (0, 1, 117, 118, 64 * 1024, 1024 * 1024):
        sent = frame(ECHO, bytes(range(251)) * (length // 251) + bytes(length % 251))
        await client.send(sent)
        expect(f"the echo of {length} bytes", await client.recv(), sent)


async def a_message_in_fragments_is_echoed_and_a_ping_between_them_answered(client):
    sent = frame(ECHO, bytes(range(250)) * 400)

    async def fragments():
        yield sent[:5]
        yield sent[5:70_000]
        # Comes back before the message is whole.
        await (await client.ping("between"))
        yield b""
        yield sent[70_000:]

    await client.send(fragments())
    expect("the echo", await client.recv(), sent)
    await client.send([sent[at : at + 1000] for at in range(0, len(sent), 1000)])
    expect("the echo of many fragments", await client.recv(), sent)


async def the_server_s_close_is_seen_with_its_code_and_text(client):
    await client.send(frame(CLOSE, struct.pack("!H", 4001) + "logged in elsewhere: Grüße".encode()))
    expect("the close", await closed(client), (4001, "logged in elsewhere: Grüße"))


async def a_close_is_replied_to_with_its_code(client):
    await client.close(4001, "bye")
    expect("the code of the reply", client.protocol.close_rcvd.code, 4001)


async def a_text_is_refused_with_1003(client):
    await client.send("text")
    expect("the code", (await closed(client))[0], 1003)


async def compression_is_offered_and_declined(client):
    offer = client.request.headers["Sec-WebSocket-Extensions"]
    expect("the offer", offer.partition(";")[0], "permessage-deflate")
    expect("the extensions", client.protocol.extensions, [])


TESTS = (
    messages_of_any_size_are_echoed,
    a_message_in_fragments_is_echoed_and_a_ping_between_them_answered,
    the_server_s_close_is_seen_with_its_code_and_text,
    a_close_is_replied_to_with_its_code,
    a_text_is_refused_with_1003,
    compression_is_offered_and_declined,
)


async def play(certificate, urls):
    trust = ssl.create_default_context(cafile=certificate)
    for url in urls:
        scheme = url.partition(":")[0]
        context = trust if scheme == "wss" else None
        for test in TESTS:
            async with asyncio.timeout(PATIENCE):
                client = await connect(url, ssl=context, max_size=None, proxy=None)
                await test(client)
                await client.close()
            if client.protocol.close_rcvd is None:
                raise Failure("the end came without a close frame")
            print(f"ok: Python, {scheme}: {test.__name__.replace('_', ' ')}", flush=True)


def main(certificate, *urls):
    try:
        asyncio.run(play(certificate, urls))
    except (Failure, OSError, TimeoutError) as failure:
        sys.exit(f"failed: Python: {failure!r}")


main(*sys.argv[1:])
