//! RFC 6455, case by case: the list of Autobahn's test suite, with its numbers, played against a server
//! that echoes. `tests/conformance/run` plays the suite itself.
//!
//! What a server of frames does otherwise than Autobahn's echo server, by design: text is refused with
//! 1003, and an empty message is no frame, whatever the framing, so that it is refused with 1007. The cases send
//! binary messages in place of texts, therefore, but for group 6, and the shortest message that is a frame in
//! place of an empty one. Sizes and counts of group 9 are smaller, and where Autobahn waits a second, a case waits
//! for the reply.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too
#![allow(clippy::cast_possible_truncation)] // of lengths that were compared

mod case;
mod closing;
mod fragments;
mod frames;
mod volume;
mod wire;
