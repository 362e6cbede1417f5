//! Who waits for which answer.

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::RequestError;
use crate::frame::MsgId;

/// So many requests for one reply id are remembered that nobody waits for any more.
const REMEMBERED: usize = 1024;

/// Tells the one who waits what has become of his request.
pub(super) type Tell = oneshot::Sender<Result<Bytes, RequestError>>;

/// A request, and whose answer it waits for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) reply_id: MsgId,
    pub(super) deadline: Instant,
    /// Closed when nobody waits any more.
    pub(super) tell: Tell,
}

/// Who a message is for.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nobody has asked for it: it goes to its route.
    Nobody,
    /// It is the answer for this one.
    Answer(Tell),
    /// It is the answer to a request for which nobody waits any more.
    TooLate,
}

/// The requests that were sent on a connection and have no answer yet, in the order sent.
///
/// The wire says of an answer only its id, so answers are told apart by their order. A request for
/// which nobody waits any more keeps its place: its answer may be on its way and must not be taken for
/// the next one's. If instead it was lost, it is now one of the others that is taken for it, and without
/// more ado each request from then on would lose its answer to the one before. Therefore the place of
/// a request ends with its deadline if an answer was discarded since it was sent: most likely, it
/// was its own.
#[derive(Debug, Default)]
pub(super) struct Requests(FxHashMap<MsgId, VecDeque<Place>>);

#[derive(Debug)]
struct Place {
    deadline: Instant,
    tell: Tell,
    /// Before the deadline, an answer was discarded for want of somebody who waits for it.
    robbed: bool,
}

impl Place {
    fn is_forgotten(&self, now: Instant) -> bool {
        self.tell.is_closed() && self.robbed && self.deadline <= now
    }
}

impl Requests {
    /// A request is sent.
    pub(super) fn enter(&mut self, asked: Asked) {
        let Asked { reply_id, deadline, tell } = asked;
        let line = self.0.entry(reply_id).or_default();
        // A server that never answers must not fill the memory.
        if line.len() >= REMEMBERED
            && let Some(oldest) = line.iter().position(|place| place.tell.is_closed())
        {
            line.remove(oldest);
        }
        line.push_back(Place { deadline, tell, robbed: false });
    }

    /// A message with this id has come.
    pub(super) fn claim(&mut self, id: MsgId, now: Instant) -> Claim {
        let Some(line) = self.0.get_mut(&id) else { return Claim::Nobody };
        let oldest = loop {
            match line.pop_front() {
                Some(place) if place.is_forgotten(now) => {}
                oldest => break oldest,
            }
        };
        let claim = match oldest {
            None => Claim::Nobody,
            Some(place) if place.tell.is_closed() => {
                for other in line.iter_mut().filter(|other| now < other.deadline) {
                    other.robbed = true;
                }
                Claim::TooLate
            }
            Some(place) => Claim::Answer(place.tell),
        };
        if line.is_empty() {
            self.0.remove(&id);
        }
        claim
    }

    /// No more answers come. All that wait are to be told.
    pub(super) fn end(&mut self) -> impl Iterator<Item = Tell> + use<> {
        let lines = std::mem::take(&mut self.0);
        lines.into_values().flatten().map(|place| place.tell)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Answer = oneshot::Receiver<Result<Bytes, RequestError>>;

    const SECOND: Duration = Duration::from_secs(1);

    fn ask(requests: &mut Requests, deadline: Instant) -> Answer {
        let (tell, answer) = oneshot::channel();
        requests.enter(Asked { reply_id: 7, deadline, tell });
        answer
    }

    /// The next message answers this request.
    fn answers(requests: &mut Requests, now: Instant, mut answer: Answer) -> bool {
        let Claim::Answer(tell) = requests.claim(7, now) else { return false };
        tell.send(Ok(Bytes::new())).is_ok() && answer.try_recv().is_ok()
    }

    fn is_too_late(requests: &mut Requests, now: Instant) -> bool {
        matches!(requests.claim(7, now), Claim::TooLate)
    }

    #[test]
    fn answers_go_to_the_requests_in_their_order_and_other_messages_to_nobody() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        let one = ask(&mut requests, now + SECOND);
        let two = ask(&mut requests, now + SECOND);
        assert!(matches!(requests.claim(8, now), Claim::Nobody));
        assert!(answers(&mut requests, now, one));
        assert!(answers(&mut requests, now, two));
        assert!(matches!(requests.claim(7, now), Claim::Nobody));
        assert!(requests.0.is_empty());
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_one() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        drop(ask(&mut requests, now + SECOND));
        let two = ask(&mut requests, now + 3 * SECOND);
        assert!(is_too_late(&mut requests, now + 2 * SECOND));
        assert!(answers(&mut requests, now + 2 * SECOND, two));
    }

    #[test]
    fn an_answer_that_never_comes_costs_one_further_request() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        // The first is never answered; the answer of the second is taken for that.
        drop(ask(&mut requests, now + SECOND));
        let two = ask(&mut requests, now + 3 * SECOND);
        assert!(is_too_late(&mut requests, now + 2 * SECOND));
        drop(two);
        let three = ask(&mut requests, now + 5 * SECOND);
        assert!(answers(&mut requests, now + 4 * SECOND, three));
    }

    #[test]
    fn a_request_that_is_given_up_keeps_its_place_until_its_deadline() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        drop(ask(&mut requests, now + SECOND));
        let two = ask(&mut requests, now + 9 * SECOND);
        assert!(is_too_late(&mut requests, now + 2 * SECOND));
        drop(two);
        let three = ask(&mut requests, now + 9 * SECOND);
        // Its own may well come: the deadline is not over.
        assert!(is_too_late(&mut requests, now + 3 * SECOND));
        assert!(answers(&mut requests, now + 3 * SECOND, three));
    }

    #[test]
    fn what_is_remembered_of_a_server_that_never_answers_is_bounded() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        let first = ask(&mut requests, now);
        for _ in 0..3 * REMEMBERED {
            drop(ask(&mut requests, now));
        }
        assert_eq!(requests.0[&7].len(), REMEMBERED);
        let waiting = (1..2 * REMEMBERED).map(|_| ask(&mut requests, now));
        let waiting: Vec<_> = std::iter::once(first).chain(waiting).collect();
        assert_eq!(requests.0[&7].len(), 2 * REMEMBERED, "who waits is not forgotten");
        assert_eq!(requests.end().filter(|tell| !tell.is_closed()).count(), waiting.len());
    }
}
