//! What may happen in a case, and how cases are made up.

use proptest::collection::vec;
use proptest::prelude::*;
use zinxide::testing::settings;
use zinxide::{Settings, Unrouted, WireFormat};

/// How many clients a case has at a time.
pub(crate) const SLOTS: usize = 4;

/// The largest payload that a server of a case takes: more than what is copied into an outbox.
pub(crate) const MAX_PACKET: u32 = 40_000;

/// A server in which everything is scarce.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) max_conn: usize,
    pub(crate) window: u32,
    pub(crate) outbox: usize,
    pub(crate) wire: WireFormat,
    pub(crate) unrouted: Unrouted,
}

/// One step. Clients are named by the slot they dialled into; what is said of a slot whose client
/// cannot do it any more is not done, so that every part of a list is a list.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Dials at once, into the free ones of `many` slots; may wait until the server has met them.
    Dial { slot: usize, many: usize, settle: bool },
    /// The client sends messages.
    Say { slot: usize, what: Vec<Say>, size: usize },
    /// The application sends to the client, by several tasks at once.
    Push { slot: usize, tasks: usize, ways: Vec<Way>, size: usize },
    /// `ServerHandle::broadcast`.
    Broadcast { size: usize },
    /// The client closes its side.
    Fin { slot: usize },
    /// The client's system resets the connection.
    Reset { slot: usize },
    /// The client sends so many bytes of a frame, and then closes its side, or falls silent.
    Half { slot: usize, bytes: usize, fin: bool },
    /// The client announces more than it may, and talks on.
    Oversize { slot: usize, excess: u32 },
    /// `Conn::stop`.
    Stop { slot: usize },
    /// `Conn::close_with`, with a last frame.
    Goodbye { slot: usize, size: usize },
    /// `Remove`.
    Remove { slot: usize, wait: bool },
    /// `ClearConn`, so many at once.
    Clear { times: usize, wait: bool },
    /// Handlers at the gate go on.
    Release { permits: usize },
    /// The client waits for all its answers.
    Hear { slot: usize },
    /// Everybody has so many turns.
    Yield { times: usize },
    /// `ServerHandle::stop`, with so many dials under way. What follows happens during the drain.
    Shutdown { dials: usize },
}

/// A message, by what its handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Function,
    /// A function that yields before it answers.
    Waiting,
    /// A function that answers when the gate lets it.
    Gated,
    /// A function that sends other frames before it answers.
    Chatty,
    Actor,
    Shared,
    PanickingFunction,
    PanickingActor,
    /// Stops its own connection.
    Stopping,
    /// Awaits a `ClearConn`.
    ClearingFunction,
    ClearingActor,
    /// There is no route.
    Nowhere,
}

/// How the application sends a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Buffered,
    Awaited,
    /// To the others, too.
    Broadcast,
}

impl Setup {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            worker_pool_size: self.workers,
            max_conn: self.max_conn,
            max_packet_size: MAX_PACKET,
            max_worker_task_len: self.window,
            max_msg_chan_len: self.outbox,
            max_msg_chan_bytes: 3 * MAX_PACKET as usize,
            wire_format: self.wire,
            unrouted: self.unrouted,
            // Longer than a test waits: no deadline excuses what is late or lost.
            drain_deadline_ms: 600_000,
            write_deadline_ms: 600_000,
            ..settings()
        }
    }
}

pub(crate) fn cases() -> impl Strategy<Value = (Setup, Vec<Action>)> {
    // Without clients nothing happens.
    let first =
        (0..SLOTS, 1..=4_usize).prop_map(|(slot, many)| Action::Dial { slot, many, settle: true });
    let list = (first, vec(action(), 4..60)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    });
    (setup(), list)
}

fn setup() -> impl Strategy<Value = Setup> {
    let wire = prop_oneof![Just(WireFormat::LtvLe), Just(WireFormat::TlvBe)];
    let unrouted = prop_oneof![Just(Unrouted::Ignore), Just(Unrouted::Close)];
    let max_conn = prop_oneof![Just(1), 2..=4_usize, 3..=4_usize];
    let outbox = prop_oneof![1..=8_usize, Just(64)];
    (1..=2_usize, max_conn, 1..=8_u32, outbox, wire, unrouted).prop_map(
        |(workers, max_conn, window, outbox, wire, unrouted)| Setup {
            workers,
            max_conn,
            window,
            outbox,
            wire,
            unrouted,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let slot = 0..SLOTS;
    let dial = (slot.clone(), 1..=SLOTS, any::<bool>());
    let say = (slot.clone(), vec(say(), 1..8), size());
    let push = (slot.clone(), 1..=3_usize, vec(way(), 1..6), size());
    let half = (slot.clone(), 1..20_usize, any::<bool>());
    let oversize = (slot.clone(), prop_oneof![0..10_u32, Just(u32::MAX - MAX_PACKET - 1)]);
    prop_oneof![
        8 => dial.prop_map(|(slot, many, settle)| Action::Dial { slot, many, settle }),
        40 => say.prop_map(|(slot, what, size)| Action::Say { slot, what, size }),
        10 => push.prop_map(|(slot, tasks, ways, size)| Action::Push { slot, tasks, ways, size }),
        3 => size().prop_map(|size| Action::Broadcast { size }),
        4 => slot.clone().prop_map(|slot| Action::Fin { slot }),
        1 => slot.clone().prop_map(|slot| Action::Reset { slot }),
        1 => half.prop_map(|(slot, bytes, fin)| Action::Half { slot, bytes, fin }),
        1 => oversize.prop_map(|(slot, excess)| Action::Oversize { slot, excess }),
        2 => slot.clone().prop_map(|slot| Action::Stop { slot }),
        2 => (slot.clone(), size()).prop_map(|(slot, size)| Action::Goodbye { slot, size }),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, wait)| Action::Remove { slot, wait }),
        1 => (1..=2_usize, any::<bool>()).prop_map(|(times, wait)| Action::Clear { times, wait }),
        2 => (1..4_usize).prop_map(|permits| Action::Release { permits }),
        3 => slot.prop_map(|slot| Action::Hear { slot }),
        10 => (1..10_usize).prop_map(|times| Action::Yield { times }),
        1 => (0..4_usize).prop_map(|dials| Action::Shutdown { dials }),
    ]
}

/// Each message that ends its connection takes strictness away from the verdict on it, so that most
/// say nothing but what must be answered.
fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        100 => Just(Say::Function),
        80 => Just(Say::Waiting),
        30 => Just(Say::Gated),
        40 => Just(Say::Chatty),
        100 => Just(Say::Actor),
        80 => Just(Say::Shared),
        2 => Just(Say::PanickingFunction),
        4 => Just(Say::PanickingActor),
        1 => Just(Say::Stopping),
        1 => prop_oneof![Just(Say::ClearingFunction), Just(Say::ClearingActor)],
        2 => Just(Say::Nowhere),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![6 => Just(Way::Buffered), 6 => Just(Way::Awaited), 1 => Just(Way::Broadcast)]
}

/// Mostly small; some of the size of a read, some above the one from which payloads are shared.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![12 => 0..64_usize, 3 => 0..5_000_usize, 1 => 32_000..39_000_usize]
}
