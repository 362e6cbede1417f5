//! The properties of the fuzz targets, on stable: on the corpus, and on inputs that are made up.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

#[path = "../fuzz/properties.rs"]
mod properties;
#[cfg(feature = "ws")]
#[path = "../fuzz/websocket.rs"]
mod websocket;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner, contextualize_config};

type Property = fn(&[u8]);

fn assert_on_corpus(target: &str, property: Property) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let input = fs::read(&file).unwrap();
        let held = catch_unwind(AssertUnwindSafe(|| property(&input)));
        assert!(held.is_ok(), "not for {}", file.display());
    }
}

fn assert_on_inputs(cases: u32, property: Property) {
    assert_on(&input(), cases, property);
}

fn assert_on(input: &impl Strategy<Value = Vec<u8>>, cases: u32, property: Property) {
    // What fails is printed whole and goes into the corpus, so that there is no file of seeds.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(contextualize_config(config));
    let outcome = runner.run(input, |input| {
        property(&input);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// How to receive, then a few frames, most of which have a route, and now and then something else.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let limit = prop_oneof![4 => Just(64_u32), 1 => 0..300_u32, 1 => Just(u32::MAX)];
    let lengths = prop_oneof![Just(vec![]), vec(0..20_u8, 1..7)];
    (any::<u8>(), limit, lengths, any::<bool>()).prop_flat_map(|(choices, limit, lengths, sane)| {
        let mut how = vec![choices];
        how.extend(limit.to_le_bytes());
        how.push(lengths.len() as u8);
        how.extend(lengths);
        let sent = if sane { frames(choices & 1 == 1).boxed() } else { any_bytes().boxed() };
        sent.prop_map(move |sent| [&how[..], &sent].concat())
    })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..400), vec(0..8_u8, 0..400)]
}

/// Frames as they stand on the wire, behind which there may be anything.
fn frames(big_endian: bool) -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![12 => 0..4_u32, 1 => any::<u32>()];
    let payload = prop_oneof![8 => vec(any::<u8>(), 0..64), 1 => vec(any::<u8>(), 0..300)];
    let frame = (id, payload).prop_map(move |(id, payload)| {
        let len = payload.len() as u32;
        let header = match big_endian {
            false => [len.to_le_bytes(), id.to_le_bytes()],
            true => [id.to_be_bytes(), len.to_be_bytes()],
        };
        [header.concat(), payload].concat()
    });
    let rest = prop_oneof![3 => Just(vec![]), 1 => any_bytes()];
    (vec(frame, 0..30), rest).prop_map(|(frames, rest)| [frames.concat(), rest].concat())
}

#[test]
fn the_codec_keeps_its_word_on_the_corpus() {
    assert_on_corpus("frame_codec", properties::frame_codec);
}

#[test]
fn the_codec_keeps_its_word_on_any_bytes() {
    assert_on_inputs(2_000, properties::frame_codec);
}

#[test]
fn a_connection_keeps_its_word_on_the_corpus() {
    assert_on_corpus("connection", properties::connection);
}

#[test]
fn a_connection_keeps_its_word_on_any_bytes() {
    assert_on_inputs(1_000, properties::connection);
}

/// How to receive, then records of the frames that a WebSocket peer sends.
#[cfg(feature = "ws")]
fn websocket_input() -> impl Strategy<Value = Vec<u8>> {
    let choices = prop_oneof![9 => 0..4_u8, 1 => 4..8_u8];
    let max = prop_oneof![4 => 130..400_u16, 1 => 0..130_u16, 2 => any::<u16>()];
    let lengths = prop_oneof![Just(vec![]), vec(0..40_u8, 1..7)];
    (choices, max, lengths, vec(record(), 0..20)).prop_map(|(choices, max, lengths, records)| {
        let mut input = vec![choices];
        input.extend(max.to_le_bytes());
        input.push(lengths.len() as u8);
        input.extend(lengths);
        input.extend(records.concat());
        input
    })
}

/// A frame in a record, as the property's `records` has them, which is mostly right.
#[cfg(feature = "ws")]
fn record() -> impl Strategy<Value = Vec<u8>> {
    let usual =
        |kind| (Just(kind), prop_oneof![60 => Just(0), 1 => any::<u8>()], vec(any::<u8>(), 0..126));
    let whole = (0..3_u8).prop_flat_map(|kind| {
        let flags = prop_oneof![40 => Just(16_u8), 1 => Just(16 + 128), 1 => any::<u8>()];
        (Just(kind), flags, vec(any::<u8>(), 0..130))
    });
    // A beginning that tells how many bytes follow, and the fragment that has them.
    let halves = vec(any::<u8>(), 1..100).prop_map(|bytes| {
        let begin = vec![3, 16 + 32, 2, bytes.len() as u8, 0, 8, 0, 1, b'?'];
        [begin, vec![6, 0, bytes.len() as u8], bytes].concat()
    });
    let close = prop_oneof![
        Just(vec![]),
        (prop_oneof![990..1020_u16, 2990..5010_u16], "\\PC{0,30}").prop_map(|(code, text)| [
            &code.to_be_bytes(),
            text.as_bytes()
        ]
        .concat()),
        (any::<u16>(), vec(any::<u8>(), 0..5)).prop_map(|(code, text)| [
            &code.to_be_bytes()[..],
            &text
        ]
        .concat()),
        vec(any::<u8>(), 0..3),
    ];
    let by_kind = |(kind, flags, payload): (u8, u8, Vec<u8>)| {
        [vec![kind, flags, payload.len() as u8], payload].concat()
    };
    prop_oneof![
        30 => whole.prop_map(by_kind),
        15 => halves,
        1 => (3..8_u8).prop_flat_map(usual).prop_map(by_kind),
        15 => (8..10_u8).prop_flat_map(usual).prop_map(by_kind),
        3 => close.prop_map(|said| [vec![10, 0, said.len() as u8], said].concat()),
        1 => usual(11).prop_map(by_kind),
        1 => (Just(200_u8), any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..130))
            .prop_map(|(kind, first, flags, payload)| {
                [vec![kind, first, flags & 0x9f, payload.len() as u8], payload].concat()
            }),
    ]
}

#[cfg(feature = "ws")]
#[test]
fn the_filter_and_a_library_agree_on_the_corpus() {
    assert_on_corpus("websocket", websocket::websocket);
}

#[cfg(feature = "ws")]
#[test]
fn the_filter_and_a_library_agree_on_what_a_peer_sends() {
    assert_on(&websocket_input(), 2_000, websocket::websocket);
}
