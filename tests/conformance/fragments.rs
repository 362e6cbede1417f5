//! Messages in fragments, and texts. Groups 5 and 6 of Autobahn.

use super::case::{Case, ended, payload, play};
use super::wire::Got::{Message, Pong};
use super::wire::{BINARY, CONTINUATION, FIN, PING, PONG, TEXT, frame};

/// The first fragment of several.
fn first(text: &str) -> Vec<u8> {
    frame(BINARY, text.as_bytes())
}

/// One in the middle.
fn more(text: &str) -> Vec<u8> {
    frame(CONTINUATION, text.as_bytes())
}

/// The last.
fn last(text: &str) -> Vec<u8> {
    frame(FIN | CONTINUATION, &ended(text))
}

fn whole(text: &str) -> Vec<u8> {
    frame(FIN | BINARY, &ended(text))
}

fn ping(text: &str) -> Vec<u8> {
    frame(FIN | PING, text.as_bytes())
}

fn echo(text: &str) -> super::wire::Got {
    Message(ended(text))
}

fn pong(text: &str) -> super::wire::Got {
    Pong(text.into())
}

/// These frames in one write, in one each, and byte by byte.
fn each_way(ids: [&str; 3], frames: &[Vec<u8>]) -> [Case; 3] {
    let [at_once, frame_by_frame, byte_by_byte] = ids.map(Case::new);
    [
        at_once.send(frames.concat()),
        frames.iter().fold(frame_by_frame, Case::send),
        byte_by_byte.chopped(1, frames.concat()),
    ]
}

#[actix::test]
async fn g5_a_message_in_fragments_is_echoed_and_a_ping_between_them_answered_at_once() {
    let two = [first("fragment1"), last("fragment2")];
    let with_a_ping = [first("fragment1"), ping("ping payload"), last("fragment2")];
    let five = |id| {
        Case::new(id)
            .send([first("fragment1"), more("fragment2"), ping("pongme 1!")].concat())
            .awaits(pong("pongme 1!"))
            .send([more("fragment3"), more("fragment4"), ping("pongme 2!")].concat())
            .awaits(pong("pongme 2!"))
    };
    let cases = each_way(["5.3", "5.4", "5.5"], &two)
        .map(|case| case.awaits(echo("fragment1fragment2")))
        .into_iter()
        .chain(
            each_way(["5.6", "5.7", "5.8"], &with_a_ping)
                .map(|case| case.awaits(pong("ping payload")).awaits(echo("fragment1fragment2"))),
        )
        .chain(
            [five("5.19").send(last("fragment5")), five("5.20").chopped(1, last("fragment5"))]
                .map(|case| case.awaits(echo("fragment1fragment2fragment3fragment4fragment5"))),
        );
    play(cases).await;
}

#[actix::test]
async fn g5_fragments_may_be_empty_and_a_frame_may_be_cut_anywhere() {
    let bytes = payload(200);
    let cuts = (0..=bytes.len()).map(|cut| {
        let frames = [frame(BINARY, &bytes[..cut]), frame(FIN | CONTINUATION, &bytes[cut..])];
        Case::new(format!("cut at {cut}")).send(frames.concat()).awaits(Message(bytes.clone()))
    });
    let empty = (0..20).map(|_| frame(CONTINUATION, b"")).collect::<Vec<_>>().concat();
    let hollow = [frame(BINARY, b""), empty, frame(FIN | CONTINUATION, &bytes)].concat();
    play(cuts.chain([Case::new("empty ones").send(hollow).awaits(Message(bytes.clone()))])).await;
}

#[actix::test]
async fn g5_a_control_frame_in_fragments_closes_with_1002() {
    let cases = [("5.1", PING), ("5.2", PONG)].map(|(id, opcode)| {
        let frames = [frame(opcode, b"fragment1"), frame(FIN | CONTINUATION, b"fragment2")];
        Case::new(id).send(frames.concat()).closes(&[1002])
    });
    play(cases).await;
}

#[actix::test]
async fn g5_a_fragment_that_does_not_follow_its_message_closes_with_1002() {
    let astray = |ids, stray| {
        each_way(ids, &[stray, whole("Hello, world!")]).map(|case| case.closes(&[1002]))
    };
    let final_ones = astray(["5.9", "5.10", "5.11"], last("non-continuation payload"));
    let open_ones = astray(["5.12", "5.13", "5.14"], more("non-continuation payload"));
    let twice = |id, stray: Vec<u8>| {
        let frames = [stray, first("fragment2"), last("fragment3")].concat();
        Case::new(id).send(frames.repeat(2)).closes(&[1002])
    };
    let others = [
        Case::new("5.15")
            .send([first("fragment1"), last("fragment2")].concat())
            .send([more("fragment3"), whole("fragment4")].concat())
            .awaits(echo("fragment1fragment2"))
            .closes(&[1002]),
        twice("5.16", more("fragment1")),
        twice("5.17", last("fragment1")),
        Case::new("5.18").send([first("fragment1"), whole("fragment2")].concat()).closes(&[1002]),
    ];
    play(final_ones.into_iter().chain(open_ones).chain(others)).await;
}

#[actix::test]
async fn g6_a_text_is_refused_with_1003_if_it_is_utf_8_and_with_1007_if_not() {
    let text =
        |id: &str, bytes: &[u8], code| Case::new(id).send(frame(FIN | TEXT, bytes)).closes(&[code]);
    let fragments = |id: &str, parts: &[&[u8]], code| {
        let last = parts.len() - 1;
        let frames = parts.iter().enumerate().map(|(nth, part)| {
            let opcode = if nth == 0 { TEXT } else { CONTINUATION };
            frame(if nth == last { FIN | opcode } else { opcode }, part)
        });
        frames.fold(Case::new(id), Case::send).closes(&[code])
    };
    let valid = "Hello-µ@ßöäüàá-UTF-8!!";
    let invalid =
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64";
    let mut octets = valid.as_bytes().chunks(1).collect::<Vec<_>>();
    octets.push(b"");
    play([
        fragments("6.1.2", &[b"", b"", b""], 1003),
        fragments("6.1.3", &[b"", b"middle frame payload", b""], 1003),
        text("6.2.1", valid.as_bytes(), 1003),
        // Inside a character.
        fragments("6.2.2", &[&valid.as_bytes()[..7], &valid.as_bytes()[7..]], 1003),
        fragments("6.2.3", &octets, 1003),
        text("6.3.1", invalid, 1007),
        fragments("6.3.2", &invalid.chunks(1).collect::<Vec<_>>(), 1007),
        fragments("6.4.1", &[&invalid[..11], b"\xf4\x90\x80\x80", &invalid[..11]], 1007),
        text("6.6.1, cut off", b"\xce", 1007),
        text("6.9.1", "\u{0}".as_bytes(), 1003),
        text("6.9.4", "\u{10000}".as_bytes(), 1003),
        text("6.12.1, too large", b"\xf8\x88\x80\x80\x80", 1007),
        text("6.14.1, alone", b"\x80", 1007),
        text("6.19.1, overlong", b"\xe0\x80\xaf", 1007),
        text("6.21.1, a surrogate", b"\xed\xa0\x80", 1007),
        text("6.22.1", "\u{fffe}".as_bytes(), 1003),
        text("6.23.1", "\u{fffd}".as_bytes(), 1003),
    ])
    .await;
}
