//! Single frames: messages, pings and pongs, reserved bits and opcodes. Groups 1 to 4 of Autobahn.

use super::case::{Case, MAX_MESSAGE, payload, play};
use super::wire::Got::{Message, Pong};
use super::wire::{BINARY, CLOSE, FIN, MASK_BIT, PING, PONG, TEXT, frame};

const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;

fn message(len: usize) -> Vec<u8> {
    frame(FIN | BINARY, &payload(len))
}

fn echo(len: usize) -> super::wire::Got {
    Message(payload(len))
}

#[actix::test]
async fn g1_a_message_of_any_size_is_echoed() {
    let echoed = |id: &str, len: usize, chop: usize| {
        Case::new(id).chopped(chop, message(len)).awaits(echo(len))
    };
    play([
        echoed("1.2.1, not empty", 2, usize::MAX),
        echoed("1.2.2", 125, usize::MAX),
        echoed("1.2.3", 126, usize::MAX),
        echoed("1.2.4", 127, usize::MAX),
        echoed("1.2.5", 128, usize::MAX),
        echoed("1.2.6", 65535, usize::MAX),
        echoed("1.2.7", 65536, usize::MAX),
        echoed("1.2.8", 65536, 997),
    ])
    .await;
}

#[actix::test]
async fn g1_an_empty_message_is_no_frame_and_a_text_is_refused_whatever_its_size() {
    let empty = Case::new("1.2.1").send(frame(FIN | BINARY, b"")).closes(&[1007]);
    let sizes = [0, 125, 126, 127, 128, 65535, 65536];
    let texts = sizes.into_iter().zip(1..).map(|(len, nth)| {
        Case::new(format!("1.1.{nth}")).send(frame(FIN | TEXT, &b"*".repeat(len))).closes(&[1003])
    });
    play(texts.chain([empty])).await;
}

#[actix::test]
async fn g2_a_ping_is_answered_and_an_unsolicited_pong_is_not() {
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let pong = |payload: &[u8]| Pong(payload.to_vec());
    let binary = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    let ten = |id, chop| {
        let payloads: Vec<_> = (0..10).map(|nth| format!("payload-{nth}")).collect();
        let pings: Vec<_> = payloads.iter().flat_map(|payload| ping(payload.as_bytes())).collect();
        payloads.into_iter().fold(Case::new(id).chopped(chop, pings), |case, payload| {
            case.awaits(Pong(payload.into_bytes()))
        })
    };
    play([
        Case::new("2.1").send(ping(b"")).awaits(pong(b"")),
        Case::new("2.2").send(ping(b"Hello, world!")).awaits(pong(b"Hello, world!")),
        Case::new("2.3").send(ping(binary)).awaits(pong(binary)),
        Case::new("2.4").send(ping(&[0xfe; 125])).awaits(pong(&[0xfe; 125])),
        Case::new("2.5").send(ping(&[0xfe; 126])).closes(&[1002]),
        Case::new("2.6").chopped(1, ping(&[0xfe; 125])).awaits(pong(&[0xfe; 125])),
        Case::new("2.7").send(frame(FIN | PONG, b"")),
        Case::new("2.8").send(frame(FIN | PONG, b"unsolicited pong payload")),
        Case::new("2.9")
            .send(frame(FIN | PONG, b"unsolicited pong payload"))
            .send(ping(b"ping payload"))
            .awaits(pong(b"ping payload")),
        ten("2.10", usize::MAX),
        ten("2.11", 1),
    ])
    .await;
}

#[actix::test]
async fn g3_a_reserved_bit_closes_with_1002_what_came_before_is_echoed_and_nothing_after() {
    let after_a_message = |id, reserved, chop| {
        let frames =
            [message(13), frame(FIN | reserved | BINARY, &payload(13)), frame(FIN | PING, b"")];
        Case::new(id).chopped(chop, frames.concat()).awaits(echo(13)).closes(&[1002])
    };
    play([
        Case::new("3.1").send(frame(FIN | RSV3 | BINARY, &payload(13))).closes(&[1002]),
        after_a_message("3.2", RSV2, usize::MAX),
        after_a_message("3.3", RSV2 | RSV3, message(13).len()),
        after_a_message("3.4", RSV1, 1),
        Case::new("3.5").send(frame(FIN | RSV1 | RSV3 | BINARY, &payload(8))).closes(&[1002]),
        Case::new("3.6").send(frame(FIN | RSV1 | RSV2 | PING, b"Hello, world!")).closes(&[1002]),
        Case::new("3.7").send(frame(FIN | RSV1 | RSV2 | RSV3 | CLOSE, b"")).replies(&[Some(1002)]),
    ])
    .await;
}

#[actix::test]
async fn g4_a_reserved_opcode_closes_with_1002_what_came_before_is_echoed_and_nothing_after() {
    let cases = [(1, 3), (2, 11)].into_iter().flat_map(|(kind, first)| {
        let alone = move |nth, opcode, payload: &[u8]| {
            let id = format!("4.{kind}.{nth}");
            Case::new(id).send(frame(FIN | opcode, payload)).closes(&[1002])
        };
        let after_a_message = move |nth, opcode, payload: &[u8], chop| {
            let frames = [message(13), frame(FIN | opcode, payload), frame(FIN | PING, b"")];
            let id = format!("4.{kind}.{nth}");
            Case::new(id).chopped(chop, frames.concat()).awaits(echo(13)).closes(&[1002])
        };
        [
            alone(1, first, b""),
            alone(2, first + 1, b"reserved opcode payload"),
            after_a_message(3, first + 2, b"", usize::MAX),
            after_a_message(4, first + 3, b"reserved opcode payload", usize::MAX),
            after_a_message(5, first + 4, b"reserved opcode payload", 1),
        ]
    });
    play(cases).await;
}

#[actix::test]
async fn a_frame_that_is_not_masked_closes_with_1002_and_one_that_is_too_large_with_1009() {
    let mut unmasked = vec![FIN | BINARY, 13];
    unmasked.extend(payload(13));
    // A header, and nothing of the payload.
    let announced =
        |len: u64| [&[FIN | BINARY, MASK_BIT | 127][..], &len.to_be_bytes(), &[0; 4]].concat();
    play([
        Case::new("not masked").send(unmasked).closes(&[1002]),
        Case::new("an unmasked close frame").send([FIN | CLOSE, 0]).replies(&[Some(1002)]),
        Case::new("2 MiB").send(announced(2 * u64::from(MAX_MESSAGE))).closes(&[1009]),
        Case::new("2^63 bytes").send(announced(1 << 63)).closes(&[1002, 1009]),
        Case::new("2^64 - 1 bytes").send(announced(u64::MAX)).closes(&[1002, 1009]),
    ])
    .await;
}
