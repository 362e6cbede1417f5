//! Large messages, small fragments, small writes, and many messages. Groups 9 and 10 of Autobahn, with sizes and
//! counts that take no time.

use super::case::{Case, payload, play};
use super::wire::Got::Message;
use super::wire::{BINARY, CONTINUATION, FIN, frame};

const KIB: usize = 1024;

/// A message in fragments of this size.
fn fragments(bytes: &[u8], size: usize) -> Vec<u8> {
    let count = bytes.len().div_ceil(size);
    let frames = bytes.chunks(size).zip(1..).map(|(part, nth)| {
        let opcode = if nth == 1 { BINARY } else { CONTINUATION };
        frame(if nth == count { FIN | opcode } else { opcode }, part)
    });
    frames.collect::<Vec<_>>().concat()
}

#[actix::test]
async fn g9_a_large_message_is_echoed() {
    let sizes = [64, 256, 512, 1000];
    play(sizes.into_iter().zip(1..).map(|(kib, nth)| {
        let bytes = payload(kib * KIB);
        Case::new(format!("9.2.{nth}")).send(frame(FIN | BINARY, &bytes)).awaits(Message(bytes))
    }))
    .await;
}

#[actix::test]
async fn g9_a_large_message_is_echoed_whatever_the_size_of_its_fragments() {
    let bytes = payload(256 * KIB);
    let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB];
    let cases = sizes.into_iter().zip(1..).map(|(size, nth)| {
        let case = Case::new(format!("9.4.{nth}")).send(fragments(&bytes, size));
        case.awaits(Message(bytes.clone()))
    });
    let auto = payload(64 * KIB);
    let auto = Case::new("10.1.1").send(fragments(&auto, 1300)).awaits(Message(auto));
    play(cases.chain([auto])).await;
}

#[actix::test]
async fn g9_a_large_message_is_echoed_however_small_the_writes() {
    let bytes = payload(64 * KIB);
    let sizes = [64, 128, 256, 512, KIB, 2 * KIB];
    play(sizes.into_iter().zip(1..).map(|(size, nth)| {
        let case = Case::new(format!("9.6.{nth}")).chopped(size, frame(FIN | BINARY, &bytes));
        case.awaits(Message(bytes.clone()))
    }))
    .await;
}

#[actix::test]
async fn g9_many_messages_are_echoed_in_order_one_by_one_and_all_at_once() {
    let sizes = [2, 16, 64, 256, KIB, 4 * KIB];
    let cases = sizes.into_iter().zip(1..).flat_map(|(size, nth)| {
        // Each of another length, so that none is taken for another.
        let all: Vec<_> = (0..100).map(|more| payload(size + more)).collect();
        let one_by_one = all.iter().fold(Case::new(format!("9.8.{nth}")), |case, bytes| {
            case.send(frame(FIN | BINARY, bytes)).awaits(Message(bytes.clone()))
        });
        let frames: Vec<_> = all.iter().flat_map(|bytes| frame(FIN | BINARY, bytes)).collect();
        let at_once = Case::new(format!("9.8.{nth}, at once")).send(frames);
        [one_by_one, all.into_iter().fold(at_once, |case, bytes| case.awaits(Message(bytes)))]
    });
    play(cases).await;
}
