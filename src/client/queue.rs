//! What was accepted for sending and no connection has taken yet.

use std::collections::VecDeque;

use super::requests::Asked;
use crate::conn::{Encoded, Limits, Overflow, SendError, Unsent};
use crate::frame::Frame;

/// What becomes of a frame of [`send_buffered`](super::Client::send_buffered) for which the offline
/// queue has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenQueueFull {
    /// It is given back: [`SendError::Full`].
    #[default]
    Refuse,
    /// The oldest in the queue are dropped for it, whoever sent them, and counted; a request among
    /// them ends with [`RequestError::Displaced`](super::RequestError::Displaced). If that is not room
    /// enough, it is dropped.
    DropOldest,
    /// It is dropped and counted.
    DropNewest,
}

/// A frame on its way to a connection.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) frame: Frame,
    /// If the format is not plain, or the policy has to know the frame again.
    pub(super) encoded: Option<Encoded>,
    /// It may be displaced in the outbox.
    pub(super) droppable: bool,
    /// If it is a request.
    pub(super) asked: Option<Asked>,
    /// How long it is on the wire.
    pub(super) len: usize,
    /// By which it is found again.
    pub(super) ticket: u64,
}

impl Item {
    /// An item that is accepted or given back as a whole.
    pub(super) fn new(limits: &Limits, frame: Frame) -> Result<Self, SendError> {
        let (frame, encoded) = limits.encode_unless_plain(limits.check(frame)?)?;
        let len = limits.len_of(&frame, encoded.as_ref());
        Ok(Self { frame, encoded, droppable: false, asked: None, len, ticket: 0 })
    }

    /// An item that is never waited with, under the policy of the settings.
    pub(super) fn buffered(limits: &Limits, frame: Frame) -> Result<Self, SendError> {
        let mut item = Self::new(limits, frame)?;
        if limits.overflow == Overflow::DropOldest {
            if item.encoded.is_none() {
                let (frame, encoded) = limits.encode(item.frame)?;
                (item.frame, item.encoded) = (frame, Some(encoded));
            }
            item.droppable = true;
        }
        Ok(item)
    }
}

/// A queue with a bound.
#[derive(Debug)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    size: Unsent,
    bound: Unsent,
}

impl Queue {
    pub(super) fn new(bound: Unsent) -> Self {
        Self { items: VecDeque::new(), size: Unsent::default(), bound }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn size(&self) -> Unsent {
        self.size
    }

    pub(super) fn has_room(&self, len: usize) -> bool {
        let with = Unsent { frames: self.size.frames + 1, bytes: self.size.bytes + len };
        !with.exceeds(self.bound)
    }

    /// Pushes an item for which there [is room](Self::has_room).
    pub(super) fn push(&mut self, mut item: Item) {
        // It is dropped among others, perhaps, and not by whom it is from.
        item.frame = item.frame.guarded();
        self.grow(&item);
        self.items.push_back(item);
    }

    /// Pushes an item in place of the oldest. Answers what was dropped: the item itself, if it can
    /// never have room.
    pub(super) fn push_displacing(&mut self, item: Item) -> Vec<Item> {
        let alone = Unsent { frames: 1, bytes: item.len };
        if alone.exceeds(self.bound) {
            return vec![item];
        }
        let mut displaced = Vec::new();
        while !self.has_room(item.len) {
            displaced.extend(self.pop());
        }
        self.push(item);
        displaced
    }

    /// Takes back what was just popped.
    pub(super) fn put_back(&mut self, item: Item) {
        self.grow(&item);
        self.items.push_front(item);
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.shrink(&item);
        Some(item)
    }

    /// Takes one out of the middle.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Item> {
        let at = self.items.iter().position(|item| item.ticket == ticket)?;
        let item = self.items.remove(at)?;
        self.shrink(&item);
        Some(item)
    }

    /// Takes all.
    pub(super) fn take(&mut self) -> VecDeque<Item> {
        self.size = Unsent::default();
        std::mem::take(&mut self.items)
    }

    fn grow(&mut self, item: &Item) {
        self.size.frames += 1;
        self.size.bytes += item.len;
    }

    fn shrink(&mut self, item: &Item) {
        self.size.frames -= 1;
        self.size.bytes -= item.len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn item(ticket: u64, payload: &'static str) -> Item {
        let limits = Settings::default().limits(std::sync::Arc::default());
        Item { ticket, ..Item::new(&limits, Frame::new(0, payload)).unwrap() }
    }

    fn tickets(items: impl IntoIterator<Item = Item>) -> Vec<u64> {
        items.into_iter().map(|item| item.ticket).collect()
    }

    #[test]
    fn a_queue_is_bounded_by_frames_and_by_bytes() {
        let mut queue = Queue::new(Unsent { frames: 2, bytes: 100 });
        queue.push(item(1, "a"));
        assert!(queue.has_room(9));
        queue.push(item(2, "b"));
        assert!(!queue.has_room(9));
        assert_eq!(queue.size(), Unsent { frames: 2, bytes: 18 });

        let mut queue = Queue::new(Unsent { frames: 9, bytes: 18 });
        queue.push(item(1, "a"));
        queue.push(item(2, "b"));
        assert!(!queue.has_room(8));
        assert_eq!(queue.pop().map(|item| item.ticket), Some(1));
        assert!(queue.has_room(9) && !queue.has_room(10));
    }

    #[test]
    fn the_oldest_make_room_unless_all_of_them_are_not_enough() {
        let mut queue = Queue::new(Unsent { frames: 3, bytes: 30 });
        for ticket in 1..=3 {
            queue.push(item(ticket, "x"));
        }
        assert_eq!(tickets(queue.push_displacing(item(4, "twelve bytes"))), [1, 2]);
        let long = "longer than all the room that there is";
        assert_eq!(tickets(queue.push_displacing(item(5, long))), [5]);
        assert_eq!(queue.remove(3).map(|item| item.ticket), Some(3));
        assert_eq!(queue.size(), Unsent { frames: 1, bytes: 20 });
        assert_eq!(tickets(queue.take()), [4]);
        assert_eq!(queue.size(), Unsent::default());
    }
}
