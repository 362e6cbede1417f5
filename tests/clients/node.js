"use strict";

// Node's package `ws` as the client: `node node.js <folder of the package> <certificate> <url>...`.

const fs = require("node:fs");
const path = require("node:path");
const { Client, ECHO, TESTS, frame, payload, play } = require("./common.js");

const [folder, certificate, ...urls] = process.argv.slice(2);
const WebSocket = require(path.join(folder, "node_modules", "ws"));
const ca = fs.readFileSync(certificate);

// What a browser's WebSocket cannot do.
const MORE = {
    async "a message in fragments is echoed, and a ping between them answered"(make) {
        const client = await Client.open(make);
        const pong = new Promise((pong) => client.socket.on("pong", (data) => pong(data.toString())));
        const sent = frame(ECHO, payload(100_000));
        client.socket.send(sent.subarray(0, 5), { fin: false });
        client.socket.send(sent.subarray(5, 70_000), { fin: false });
        client.socket.ping("between");
        if ((await pong) !== "between") {
            throw new Error(`the pong says ${await pong}`);
        }
        client.socket.send(new Uint8Array(0), { fin: false });
        client.socket.send(sent.subarray(70_000), { fin: true });
        await client.expectEcho(sent);
        client.socket.close(1000);
        await client.expectClose("1000  clean");
    },
};

async function main() {
    for (const url of urls) {
        const make = () => new WebSocket(url, { ca, perMessageDeflate: true });
        const passed = (name) => console.log(`ok: Node, ${new URL(url).protocol} ${name}`);
        await play(make, passed, { ...TESTS, ...MORE });
    }
}

main().then(
    () => process.exit(0),
    (error) => {
        console.error(`failed: Node: ${error.message}`);
        process.exit(1);
    },
);
