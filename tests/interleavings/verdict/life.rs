//! What must be so of one client and its connection.

use std::collections::{HashMap, HashSet};

use zinxide::{CloseReason, Conn, Frame, MsgId, Unrouted};

use super::{Trial, reason};
use crate::actions::Say;
use crate::clients::{Client, Said};
use crate::journal::Event;
use crate::senders::{BROADCAST, Fate, LAST, PUSH};

/// One client and its connection, if it ever was admitted as far as anybody knows.
pub(crate) struct Life<'a> {
    trial: &'a Trial<'a>,
    client: &'a Client,
    conn: Option<Conn>,
    events: &'a [Event],
    /// Why it ended, if it had started.
    pub(crate) why: Option<&'a CloseReason>,
    heard: Vec<Frame>,
}

impl<'a> Life<'a> {
    pub(crate) fn new(trial: &'a Trial<'a>, client: &'a Client) -> Self {
        let mut conns = trial.conns.iter().filter(|conn| conn.peer_addr() == client.addr);
        let conn = conns.next().cloned();
        assert!(conns.next().is_none(), "two connections for one dial");
        let events = conn.as_ref().and_then(|conn| trial.events.get(&conn.id()));
        let events = events.map_or(&[][..], Vec::as_slice);
        let why = events.iter().find_map(|event| match event {
            Event::Stopped(why) => Some(why),
            _ => None,
        });
        let heard = client.heard.frames.borrow().clone();
        Self { trial, client, conn, events, why, heard }
    }

    pub(crate) fn assert_guarantees(&self) {
        self.assert_hooks_frame_the_messages();
        self.assert_the_reason_is_one_of_those_there_were();
        self.assert_messages_are_handled_in_order();
        self.assert_what_is_heard_was_sent_to_it_whole_and_in_order();
        self.assert_only_talkers_are_reset();
        self.assert_nothing_is_lost_by_a_gentle_end();
        self.assert_a_goodbye_is_the_last_word();
    }

    /// What the peer or the application did to it may have cost it frames.
    pub(crate) fn is_lossy(&self) -> bool {
        use CloseReason as R;
        let cut = match self.why {
            Some(R::Io(_) | R::SlowConsumer(_)) => true,
            // An overflow cuts also a connection that ends for another reason.
            Some(_) if self.trial.overflowed => true,
            // The server may have stopped between its admission and its start.
            None => self.trial.outcome.stopped_early,
            _ => false,
        };
        let reset = self.client.reset || self.client.heard.by_reset.get();
        self.conn.is_some() && (reset || cut)
    }

    /// G6: a peer that has said nothing that the server did not read gets all that it was sent.
    fn assert_only_talkers_are_reset(&self) {
        use CloseReason as R;
        let (client, gone) = (self.client, matches!(self.why, None | Some(R::SlowConsumer(_))));
        let talked_on = self.handled().len() < client.said.len() || client.broke.is_some();
        assert!(!client.heard.by_reset.get() || talked_on || gone, "reset for no reason");
        assert!(!client.heard.by_reset.get() || self.why != Some(&R::PeerClosed));
    }

    /// A drain may have been cut short.
    fn is_hurried(&self) -> bool {
        let client = self.client;
        client.stopped
            || client.goodbye
            || client.removed
            || client.cleared
            || self.trial.outcome.clears_inside
            || self.trial.overflowed
            || client.said.iter().any(|said| said.what.panics() || said.what == Say::Stopping)
    }

    /// The messages that the server must handle if nothing hinders it.
    fn due(&self) -> Vec<&Said> {
        let valid = self.client.broke.map_or(self.client.said.len(), |(before, _)| before);
        let closes = self.trial.outcome.setup.unrouted == Unrouted::Close;
        let said = self.client.said[..valid].iter();
        let said = said.take_while(|said| !(closes && said.what == Say::Nowhere));
        said.filter(|said| said.what != Say::Nowhere).collect()
    }

    /// The numbers of the messages that handlers had.
    fn handled(&self) -> Vec<(MsgId, u32)> {
        let begun = |event: &Event| match event {
            Event::Begun(id, seq) => Some((*id, *seq)),
            _ => None,
        };
        self.events.iter().filter_map(begun).collect()
    }

    /// The answers to what handlers had, if all were accepted.
    fn promised(&self) -> Vec<Frame> {
        let due = self.due();
        let handled = due[..self.handled().len()].iter();
        let abandoned = |seq| self.events.contains(&Event::Abandoned(seq));
        let answered = |said: &&&Said| said.what.is_answered() && !abandoned(said.number().1);
        handled.filter(answered).map(|said| said.frame.clone()).collect()
    }

    fn answers(&self) -> Vec<&Frame> {
        self.heard.iter().filter(|frame| ![PUSH, BROADCAST, LAST].contains(&frame.id)).collect()
    }

    pub(crate) fn missing(&self) -> u64 {
        (self.promised().len() - self.answers().len()) as u64
    }

    pub(crate) fn heard_of(&self, id: MsgId) -> impl Iterator<Item = &Frame> {
        self.heard.iter().filter(move |frame| frame.id == id)
    }

    /// G3. A handler that a stop of the server does not wait for may be dropped last.
    fn assert_hooks_frame_the_messages(&self) {
        let is_abandoned = |event: &&Event| matches!(event, Event::Abandoned(_));
        let events: Vec<_> = self.events.iter().filter(|event| !is_abandoned(event)).collect();
        let Some((first, rest)) = events.split_first() else { return };
        assert_eq!(**first, Event::Started);
        let Some((last, between)) = rest.split_last() else { panic!("{first:?} and no more") };
        assert!(matches!(last, Event::Stopped(_)), "{last:?} after the stop");
        let is_hook = |event: &&Event| matches!(event, Event::Started | Event::Stopped(_));
        assert!(!between.iter().any(is_hook), "a hook ran twice: {:?}", self.events);
        let done = between.iter().filter(|event| matches!(event, Event::Done(_))).count();
        let abandoned = self.events.iter().filter(is_abandoned).count();
        assert_eq!(done + abandoned, self.handled().len(), "stopped with a handler at work");
    }

    /// G3.
    fn assert_the_reason_is_one_of_those_there_were(&self) {
        use CloseReason as R;
        let Some(why) = self.why else { return };
        let explained = reason::explains(why, self.client, self.trial);
        assert!(explained, "{:?} ended for no reason: {why}", self.conn);
        // A connection that is hurried may leave the table before its handler is done, and then a
        // stop of the server does not wait for that one.
        let hurried = matches!(
            why,
            R::Stopped | R::App { .. } | R::Removed | R::Cleared | R::HandlerPanicked(_)
        );
        let abandoned = self.events.iter().any(|event| matches!(event, Event::Abandoned(_)));
        assert!(!abandoned || hurried || self.is_hurried(), "a handler is not heard out");
    }

    /// G11.
    fn assert_messages_are_handled_in_order(&self) {
        let due: Vec<_> = self.due().iter().map(|said| said.number()).collect();
        let handled = self.handled();
        assert!(due.starts_with(&handled), "{handled:?} of {due:?}");
    }

    /// G5, and G3 as to who has not started.
    fn assert_what_is_heard_was_sent_to_it_whole_and_in_order(&self) {
        let rest = self.client.heard.rest.borrow();
        assert!(rest.is_empty() || self.is_lossy(), "{} bytes of half a frame", rest.len());
        if self.conn.is_none() {
            assert!(self.heard.is_empty(), "who is not admitted hears nothing");
        }
        let promised = self.promised();
        assert!(promised.iter().collect::<Vec<_>>().starts_with(&self.answers()));
        let came_back: HashSet<_> = self.events.iter().filter_map(Event::refused).collect();
        let came_back = promised.iter().position(|f| came_back.contains(&seq(f, 0)));
        assert!(came_back.is_none_or(|first| self.answers().len() <= first));

        // A connection misses no broadcast between two others.
        let broadcasts: Vec<_> = self.heard_of(BROADCAST).collect();
        let first = broadcasts.first().map_or(0, |frame| seq(frame, 2) as usize);
        let asked: Vec<_> = self.trial.broadcasts[first..].iter().collect();
        assert!(asked.starts_with(&broadcasts), "a broadcast is missing or out of order");
        assert!(broadcasts.is_empty() || self.why.is_some(), "a broadcast before the start");

        let mut last = HashMap::new();
        for frame in self.heard.iter().filter(|frame| frame.id == PUSH || frame.id == BROADCAST) {
            let before = last.insert(seq(frame, 0), seq(frame, 1));
            assert!(before < Some(seq(frame, 1)), "a sender's frames are out of order");
        }
        let (sent, heard) = (self.pushed(), self.heard_of(PUSH).cloned());
        let mut heard_by_sender = HashMap::<_, Vec<_>>::new();
        for frame in heard {
            heard_by_sender.entry(seq(&frame, 0)).or_default().push(frame);
        }
        for (sender, heard) in &heard_by_sender {
            let sent = sent.get(sender).map_or(&[][..], Vec::as_slice);
            assert!(sent.starts_with(heard), "sender {sender}: not what was accepted");
        }
    }

    /// G20.
    fn assert_a_goodbye_is_the_last_word(&self) {
        use CloseReason as R;
        let said = self.client.goodbye;
        assert!(!said || matches!(self.why, None | Some(R::App { .. })), "{:?}", self.why);
        let last = self.heard.iter().position(|frame| frame.id == LAST);
        assert!(last.is_none_or(|at| said && at + 1 == self.heard.len()), "something behind it");
        assert!(!said || last.is_some() || self.is_lossy(), "the last frame is lost");
    }

    /// What this connection accepted, by sender.
    fn pushed(&self) -> HashMap<u32, Vec<Frame>> {
        let mut by_sender = HashMap::<_, Vec<_>>::new();
        let id = self.conn.as_ref().map(Conn::id);
        for pushed in self.trial.outcome.application.senders.pushed() {
            if Some(pushed.to) == id && pushed.fate == Fate::Accepted {
                by_sender.entry(seq(&pushed.frame, 0)).or_default().push(pushed.frame);
            }
        }
        by_sender
    }

    /// G6.
    fn assert_nothing_is_lost_by_a_gentle_end(&self) {
        use CloseReason as R;
        if self.is_lossy() {
            return;
        }
        let accepted: usize = self.pushed().values().map(Vec::len).sum();
        assert_eq!(self.heard_of(PUSH).count(), accepted, "accepted is not received");
        match self.why {
            _ if self.is_hurried() => {}
            Some(R::PeerClosed | R::Protocol(_) | R::NoRoute(_)) => {
                assert_eq!(self.handled().len(), self.due().len(), "messages are lost");
                assert_eq!(self.missing(), 0, "answers are lost");
            }
            Some(R::Shutdown) => assert_eq!(self.missing(), 0, "answers are lost"),
            _ => {}
        }
    }
}

impl Event {
    fn refused(&self) -> Option<u32> {
        match self {
            Self::Refused(seq) => Some(*seq),
            _ => None,
        }
    }
}

impl Said {
    fn number(&self) -> (MsgId, u32) {
        (self.frame.id, seq(&self.frame, 0))
    }
}

/// The numbers that a payload begins with.
fn seq(frame: &Frame, at: usize) -> u32 {
    let bytes = frame.payload[4 * at..].first_chunk().expect("payloads begin with numbers");
    u32::from_le_bytes(*bytes)
}
