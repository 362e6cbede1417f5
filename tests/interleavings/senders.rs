//! Tasks of the application that send, each its own numbers in order.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use zinxide::{BroadcastReport, Conn, ConnId, Frame, MsgId, SendError, ServerHandle};

use crate::actions::Way;
use crate::journal::payload;

/// The ids of what is sent. A frame's payload begins with the sender, its number there, and the
/// number among all broadcasts.
pub(crate) const PUSH: MsgId = 50;
pub(crate) const BROADCAST: MsgId = 51;

/// The id of last frames.
pub(crate) const LAST: MsgId = 52;

/// What became of a frame for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted,
    Full,
    Closed,
}

/// A frame that a sender sent to one connection.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) to: ConnId,
    pub(crate) frame: Frame,
    pub(crate) fate: Fate,
}

/// All that was sent.
#[derive(Default)]
pub(crate) struct Senders {
    next: AtomicU32,
    pushed: Mutex<Vec<Pushed>>,
    broadcasts: Mutex<Vec<Frame>>,
    reports: Mutex<Vec<BroadcastReport>>,
    server: OnceLock<ServerHandle>,
}

impl Senders {
    pub(crate) fn watch(&self, server: &ServerHandle) {
        assert!(self.server.set(server.clone()).is_ok());
    }

    /// One more task that sends.
    pub(crate) fn hire(self: &Arc<Self>) -> Sender {
        Sender { all: Arc::clone(self), number: self.next.fetch_add(1, SeqCst), seq: 0 }
    }

    pub(crate) fn pushed(&self) -> Vec<Pushed> {
        self.pushed.lock().unwrap().clone()
    }

    /// In the order in which they were asked for.
    pub(crate) fn broadcasts(&self) -> Vec<Frame> {
        self.broadcasts.lock().unwrap().clone()
    }

    pub(crate) fn reports(&self) -> Vec<BroadcastReport> {
        self.reports.lock().unwrap().clone()
    }
}

pub(crate) struct Sender {
    all: Arc<Senders>,
    number: u32,
    seq: u32,
}

impl Sender {
    /// Sends these frames to `conn`, one after the other. What one answer says of a connection, the
    /// later ones must bear out.
    pub(crate) async fn send(&mut self, conn: &Conn, ways: &[Way], size: usize) {
        let mut closed = false;
        for way in ways {
            let frame = match way {
                Way::Broadcast => {
                    self.broadcast(size).await;
                    continue;
                }
                _ => Frame::new(PUSH, payload(&[self.number, self.seq, 0], size)),
            };
            self.seq += 1;
            let sent = match way {
                Way::Awaited => conn.send(frame.id, frame.payload.clone()).await,
                _ => conn.send_buffered(frame.id, frame.payload.clone()),
            };
            let fate = match sent {
                Ok(()) => Fate::Accepted,
                Err(SendError::Full(back)) => {
                    assert!(back == frame, "another frame came back");
                    assert!(matches!(way, Way::Buffered), "it waits for room");
                    Fate::Full
                }
                Err(SendError::Closed(back)) => {
                    assert!(back == frame, "another frame came back");
                    Fate::Closed
                }
                Err(other) => panic!("{other}"),
            };
            assert!(!closed || fate == Fate::Closed, "{conn} was closed and is {fate:?}");
            closed = fate == Fate::Closed;
            self.all.pushed.lock().unwrap().push(Pushed { to: conn.id(), frame, fate });
        }
    }

    /// Of the case's own thread, so that they have an order.
    pub(crate) async fn broadcast(&mut self, size: usize) {
        let report = {
            let mut broadcasts = self.all.broadcasts.lock().unwrap();
            let numbers = [self.number, self.seq, broadcasts.len() as u32];
            let frame = Frame::new(BROADCAST, payload(&numbers, size));
            broadcasts.push(frame.clone());
            self.all.server.get().expect("it is told of the server").broadcast(frame)
        };
        self.seq += 1;
        let report = report.await.expect("there is room for it in an outbox");
        self.all.reports.lock().unwrap().push(report);
    }
}
