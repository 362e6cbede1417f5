use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use super::*;

#[test]
fn g12_places_are_taken_and_given_back_one_by_one() {
    let window = Window::default();
    window.enter(3);
    assert_eq!(window.in_flight(), 3);
    assert!(!window.leave(1), "nobody waits");
    assert_eq!(window.in_flight(), 2);
}

#[test]
fn g12_a_reader_that_waits_is_woken_by_the_leaver_that_makes_its_wish_true() {
    let window = Window::default();
    window.enter(3);
    assert!(!window.wait_below(2));
    assert!(!window.is_awaited_and_free());
    assert!(!window.leave(1), "two are still in flight");
    assert!(window.leave(1));
    assert!(window.is_awaited_and_free());
}

#[test]
fn g12_a_wish_that_is_true_already_needs_no_waker() {
    let window = Window::default();
    assert!(window.wait_below(1));
    window.enter(1);
    assert!(window.wait_below(2));
    assert!(!window.wait_below(1));
}

#[test]
fn g12_a_disarmed_reader_is_not_woken() {
    let window = Window::default();
    window.enter(2);
    assert!(!window.wait_below(1));
    window.disarm();
    assert!(!window.leave(2));
    assert!(!window.is_awaited_and_free());
}

#[test]
fn g12_no_wake_up_is_lost_between_a_reader_and_leavers_on_other_threads() {
    const ROUNDS: usize = 5000;
    let window = Arc::new(Window::default());
    let (wake, woken) = mpsc::channel();
    let (go, leaves) = mpsc::sync_channel::<()>(1);
    let leaver = {
        let window = Arc::clone(&window);
        thread::spawn(move || {
            for () in leaves {
                if window.leave(1) {
                    wake.send(()).unwrap();
                }
            }
        })
    };
    for _ in 0..ROUNDS {
        window.enter(1);
        go.send(()).unwrap();
        let mut free = window.wait_below(1);
        while !free {
            // A lost wake-up would leave the reader here. One too many, from a leaver that saw the
            // wish of the round before, is harmless.
            woken.recv_timeout(crate::testing::PATIENCE).expect("the leaver wakes the reader");
            free = window.in_flight() == 0;
        }
        window.disarm();
    }
    drop(go);
    leaver.join().unwrap();
}
