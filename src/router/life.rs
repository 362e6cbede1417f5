//! The life of one actor whose panics go no further.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use actix::dev::ContextFut;
use actix::{Actor, Context};

use crate::inbound;
use crate::unwind::contained;

/// How an actor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    Stopped,
    Panicked,
}

/// Runs the actor that `begin` makes to its end; then `alive` is false. Each time that it rests,
/// `resume` may have it go on.
pub(super) async fn live<A>(
    alive: &Cell<bool>,
    begin: impl FnOnce() -> ContextFut<A, Context<A>>,
    resume: impl Fn(&mut ContextFut<A, Context<A>>) -> bool,
) -> Death
where
    A: Actor<Context = Context<A>>,
{
    let Some(life) = contained(begin) else { return Death::Panicked };
    let mut life = Box::pin(life);
    let died = poll_fn(|cx| {
        loop {
            match contained(|| life.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => return Poll::Ready(Death::Stopped),
                Some(Poll::Pending) if resume(&mut life) => {}
                Some(Poll::Pending) => return Poll::Pending,
                None => return Poll::Ready(Death::Panicked),
            }
        }
    })
    .await;
    alive.set(false);
    // Messages that the actor kept are lost with it: their connections end as such.
    let buried = contained(|| inbound::abandoning(|| drop(life)));
    if buried.is_none() { Death::Panicked } else { died }
}
