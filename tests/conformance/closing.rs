//! The closing handshake. Group 7 of Autobahn.

use super::case::{Case, ended, payload, play};
use super::wire::Got::Message;
use super::wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, close, frame};

#[actix::test]
async fn g7_a_close_frame_is_replied_to_with_its_code() {
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    // Registered since.
    let later = [1012, 1013].map(|code| (format!("7.7, {code}"), code));
    let codes = valid.into_iter().zip(1..).map(|(code, nth)| (format!("7.7.{nth}"), code));
    let codes = codes
        .chain(later)
        .map(|(id, code)| Case::new(id).send(close(code, b"")).replies(&[Some(code)]));
    let hello = frame(FIN | BINARY, &ended("Hello, world!"));
    let ours = |id| Case::new(id).replies(&[Some(1000)]);
    let others = [
        ours("7.1.1").send(hello).awaits(Message(ended("Hello, world!"))).send(close(1000, b"")),
        // Without a code the reply has none, or 1000.
        Case::new("7.3.1").send(frame(FIN | CLOSE, b"")).replies(&[None, Some(1000)]),
        ours("7.3.3").send(close(1000, b"")),
        ours("7.3.4").send(close(1000, b"Hello, world!")),
        ours("7.3.5").send(close(1000, &[b'*'; 123])),
        ours("7.3.4, byte by byte").chopped(1, close(1000, "Grüße".as_bytes())),
    ];
    play(codes.chain(others)).await;
}

#[actix::test]
async fn g7_what_comes_after_a_close_frame_is_read_away() {
    let closed = |id| Case::new(id).replies(&[Some(1000)]);
    let hello = frame(FIN | BINARY, &ended("Hello, world!"));
    let fragment = frame(BINARY, b"fragment1");
    let rest = frame(FIN | CONTINUATION, &ended("fragment2"));
    let bye = close(1000, b"");
    play([
        closed("7.1.2").send([bye.clone(), frame(FIN | CLOSE, b"")].concat()),
        closed("7.1.3").send([bye.clone(), frame(FIN | PING, b"")].concat()),
        closed("7.1.4").send([bye.clone(), hello].concat()),
        closed("7.1.5").send([fragment, bye, rest].concat()),
    ])
    .await;
}

#[actix::test]
async fn g7_however_much_comes_after_a_close_frame_the_reply_is_not_lost_to_a_reset() {
    let hello = frame(FIN | BINARY, &ended("Hello, world!"));
    let frames = [close(1000, b""), hello.repeat(1000)].concat();
    play([Case::new("7.1.4, a thousand times").send(frames).replies(&[Some(1000)])]).await;
}

#[actix::test]
async fn g7_a_message_before_a_close_frame_delays_no_reply_and_is_not_half_sent() {
    // Whether an echo comes before the reply is up to the server.
    let frames = [
        frame(FIN | BINARY, &payload(256 * 1024)),
        frame(FIN | BINARY, &payload(13)),
        close(1000, b""),
        frame(FIN | PING, b""),
    ];
    play([Case::new("7.1.6").send(frames.concat()).may_echo().replies(&[Some(1000)])]).await;
}

#[actix::test]
async fn g7_a_close_frame_that_is_malformed_or_has_a_code_that_nobody_may_send_closes_with_1002() {
    let invalid = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    let codes = invalid.into_iter().zip(1..).map(|(code, nth)| (format!("7.9.{nth}"), code));
    let more = [("7.9, 1015", 1015), ("7.13.1", 5000), ("7.13.2", 65535)];
    let codes = codes.chain(more.map(|(id, code)| (id.to_owned(), code)));
    let codes = codes.map(|(id, code)| Case::new(id).send(close(code, b"")).replies(&[Some(1002)]));
    let not_utf_8 =
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64";
    play(codes.chain([
        Case::new("7.3.2").send(frame(FIN | CLOSE, b"a")).replies(&[Some(1002)]),
        Case::new("7.3.6").send(close(1000, &[b'*'; 124])).replies(&[Some(1002)]),
        Case::new("7.5.1").send(close(1000, not_utf_8)).replies(&[Some(1007)]),
    ]))
    .await;
}
