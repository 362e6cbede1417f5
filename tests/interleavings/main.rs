//! The guarantees under random interleavings: whatever peers and application do to each other, in
//! whatever order, the same sums come out.
//!
//! Each case is a list of [`Action`]s on a real server with real sockets. What has happened is
//! written down by hooks, handlers, senders and clients, and judged when all is over ([`verdict`]):
//! threads race, so a case does not say *what* must have happened, but what it may have been.
//!
//! `PROPTEST_CASES=2000 cargo test --test interleavings` tries more of them. A list that failed is
//! made smaller and printed as a call of [`play`] (the lists in it want a `vec!`), for a test of its
//! own. It may take many calls to fail again.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

mod actions;
mod application;
mod case;
mod clients;
mod journal;
mod senders;
mod verdict;

use std::cell::Cell;
use std::time::Duration;

use actions::{Action, Setup};
use proptest::test_runner::{Config, TestError, TestRunner, contextualize_config};
use zinxide::testing::PATIENCE;

/// How long anything is waited for while a list is made smaller.
const SHORT: Duration = Duration::from_secs(3);

/// One case, in a system of its own.
fn play(setup: Setup, actions: &[Action], patience: Duration) {
    actix_rt::System::new().block_on(async {
        let mut case = case::Case::start(setup, patience).await;
        for action in actions {
            case.perform(action).await;
        }
        verdict::assert_guarantees(&case.finish().await);
    });
}

#[test]
fn whatever_peers_and_application_do_in_whatever_order_the_guarantees_hold() {
    let config = Config {
        cases: 400,
        // What fails is a matter of timing, too, so that a seed alone would not bring it back.
        failure_persistence: None,
        max_shrink_iters: 2_000,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new(contextualize_config(config));
    let failed = Cell::new(false);
    let outcome = runner.run(&actions::cases(), |(setup, actions)| {
        // While a list is made smaller, a race that is won once may be lost the next time, and a
        // case that hangs has shown that it does.
        let (times, patience) = if failed.get() { (20, SHORT) } else { (1, PATIENCE) };
        for _ in 0..times {
            let told = TellsOfPanic(&failed);
            play(setup.clone(), &actions, patience);
            drop(told);
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, (setup, actions))) => {
            panic!("{why}\nplay({setup:?}, &{actions:?}, PATIENCE)")
        }
        Err(abort) => panic!("{abort}"),
    }
}

struct TellsOfPanic<'a>(&'a Cell<bool>);

impl Drop for TellsOfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(true);
        }
    }
}
