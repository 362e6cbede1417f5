//! The properties of the fuzz targets, on stable: on the corpus, and on inputs that are made up.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

#[path = "../fuzz/properties.rs"]
mod properties;

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
    // What fails is printed whole and goes into the corpus, so that there is no file of seeds.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(contextualize_config(config));
    let outcome = runner.run(&input(), |input| {
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
