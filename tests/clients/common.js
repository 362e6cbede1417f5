"use strict";

// What the WebSocket of Node's package `ws` and that of browsers do alike. A page gets this file as it is.

const ECHO = 1;
const CLOSE = 2;

// A frame as the server's default wire format has it.
function frame(id, payload) {
    const bytes = new Uint8Array(8 + payload.length);
    const header = new DataView(bytes.buffer);
    header.setUint32(0, payload.length, true);
    header.setUint32(4, id, true);
    bytes.set(payload, 8);
    return bytes;
}

// A frame that asks the server to close with a code and a text.
function closeWith(code, text) {
    return frame(CLOSE, new Uint8Array([code >> 8, code & 255, ...new TextEncoder().encode(text)]));
}

function payload(length) {
    return Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8)) & 255);
}

// An open WebSocket, whose messages and close are taken one by one.
class Client {
    constructor(socket) {
        this.socket = socket;
        this.come = [];
        this.wake = () => {};
        const take = (what) => {
            this.come.push(what);
            this.wake();
        };
        socket.binaryType = "arraybuffer";
        socket.onmessage = (event) => take(new Uint8Array(event.data));
        socket.onclose = (event) => take(`${event.code} ${event.reason} ${event.wasClean ? "clean" : "unclean"}`);
    }

    static async open(make) {
        const client = new Client(make());
        await new Promise((open, fail) => {
            client.socket.onopen = open;
            client.socket.onerror = () => fail(new Error("it does not connect"));
        });
        return client;
    }

    // The next message, or the close as a string.
    async next() {
        while (this.come.length === 0) {
            await new Promise((wake) => (this.wake = wake));
        }
        return this.come.shift();
    }

    async expectClose(wanted) {
        const got = await this.next();
        if (got !== wanted) {
            throw new Error(`${typeof got === "string" ? got : "a message"} in place of ${wanted}`);
        }
    }

    async expectEcho(sent) {
        const got = await this.next();
        if (typeof got === "string") {
            throw new Error(`closed with ${got} in place of an echo of ${sent.length} bytes`);
        }
        if (got.length !== sent.length || !got.every((byte, index) => byte === sent[index])) {
            throw new Error(`the echo of ${sent.length} bytes is another message, of ${got.length}`);
        }
    }
}

// The tests: name and function of `make`, which makes a WebSocket.
const TESTS = {
    async "messages of any size are echoed"(make) {
        const client = await Client.open(make);
        for (const length of [0, 1, 117, 118, 64 * 1024, 1024 * 1024]) {
            const sent = frame(ECHO, payload(length));
            client.socket.send(sent);
            await client.expectEcho(sent);
        }
        client.socket.close(1000);
        await client.expectClose("1000  clean");
    },

    async "a hundred messages at once are echoed in order"(make) {
        const client = await Client.open(make);
        const all = Array.from({ length: 100 }, (_, index) => frame(ECHO, payload(index * 20)));
        all.forEach((sent) => client.socket.send(sent));
        for (const sent of all) {
            await client.expectEcho(sent);
        }
        client.socket.close(1000);
        await client.expectClose("1000  clean");
    },

    async "the server's close is seen with its code and text"(make) {
        for (const code of [4001, 4999]) {
            const client = await Client.open(make);
            client.socket.send(closeWith(code, "logged in elsewhere: Grüße"));
            await client.expectClose(`${code} logged in elsewhere: Grüße clean`);
        }
    },

    async "the client's close is replied to with its code"(make) {
        for (const code of [1000, 4001]) {
            const client = await Client.open(make);
            client.socket.close(code, "bye");
            const got = await client.next();
            if (!got.startsWith(`${code} `) || !got.endsWith(" clean")) {
                throw new Error(`${got} in place of ${code}`);
            }
        }
    },

    async "a text is refused with 1003"(make) {
        const client = await Client.open(make);
        client.socket.send("text");
        const got = await client.next();
        if (!got.startsWith("1003 ") || !got.endsWith(" clean")) {
            throw new Error(`${got} in place of 1003`);
        }
    },

    async "compression is offered and declined"(make) {
        const client = await Client.open(make);
        if (client.socket.extensions !== "") {
            throw new Error(`the server has chosen ${client.socket.extensions}`);
        }
        client.socket.close(1000);
        await client.expectClose("1000  clean");
    },
};

// Runs them one after the other; `passed` is called with the name of each.
async function play(make, passed, tests = TESTS) {
    for (const [name, test] of Object.entries(tests)) {
        try {
            await test(make);
        } catch (error) {
            throw new Error(`${name}: ${error.message}`);
        }
        passed(name);
    }
}

if (typeof module === "object") {
    module.exports = { Client, ECHO, TESTS, frame, payload, play };
}
