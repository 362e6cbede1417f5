//! Who waits for which answer.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::RequestError;
use crate::frame::MsgId;

/// With so many answers in a row for requests for which nobody waited any more, it is taken for granted
/// that one was lost.
const TOO_LATE: u32 = 8;

/// So many requests for one reply id may have no answer and nobody who waits for it.
const GIVEN_UP: usize = 1024;

/// Tells the one who waits what has become of his request.
pub(super) type Tell = oneshot::Sender<Result<Bytes, RequestError>>;

/// A request, and whose answer it waits for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) reply_id: MsgId,
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
    /// It is the answer to a request for which nobody waits any more; of whom this is left, whose drop
    /// may run code of his executor.
    TooLate(Tell),
    /// As that, and the answers of this connection cannot be told apart any more.
    OutOfStep(Tell),
}

/// The requests that were sent on a connection and have no answer yet, in the order sent.
///
/// The wire says of an answer only its id, so answers are told apart by their order, and that only if no
/// request loses its place: the answer to one for which nobody waits any more may still come, and must
/// not be taken for the next one's. If instead it is lost, each request from then on loses its answer to
/// the one before. The two look the same from here, so the only cure that never gives a request another
/// one's answer is to end the connection, when there is reason enough to think that it is the second.
#[derive(Debug, Default)]
pub(super) struct Requests(FxHashMap<MsgId, Line>);

/// The requests for one reply id; never empty.
#[derive(Debug)]
struct Line {
    places: VecDeque<Tell>,
    /// Answers that came too late, since the last that did not.
    too_late: u32,
    /// With so many places it is worth while to count those for which nobody waits: else each request
    /// of a client that has many on their way would look at all of them.
    look_at: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { places: VecDeque::new(), too_late: 0, look_at: GIVEN_UP }
    }
}

impl Line {
    /// Whether so many have been given up that the server cannot be thought to answer.
    fn is_hopeless(&mut self) -> bool {
        if self.places.len() < self.look_at {
            return false;
        }
        let given_up = self.places.iter().filter(|tell| tell.is_closed()).count();
        self.look_at = self.places.len() + GIVEN_UP.saturating_sub(given_up);
        given_up >= GIVEN_UP
    }

    fn pop(&mut self) -> Option<Tell> {
        let oldest = self.places.pop_front();
        self.look_at = self.look_at.min(self.places.len() + GIVEN_UP);
        oldest
    }
}

impl Requests {
    /// A request is sent. False if the answers of this connection cannot be told apart any more.
    #[must_use]
    pub(super) fn enter(&mut self, asked: Asked) -> bool {
        let line = self.0.entry(asked.reply_id).or_default();
        let hopeless = line.is_hopeless();
        line.places.push_back(asked.tell);
        !hopeless
    }

    /// A message with this id has come.
    pub(super) fn claim(&mut self, id: MsgId) -> Claim {
        let Entry::Occupied(mut entry) = self.0.entry(id) else { return Claim::Nobody };
        let line = entry.get_mut();
        let Some(oldest) = line.pop() else { return Claim::Nobody };
        let claim = if !oldest.is_closed() {
            line.too_late = 0;
            Claim::Answer(oldest)
        } else {
            line.too_late += 1;
            if line.too_late < TOO_LATE { Claim::TooLate(oldest) } else { Claim::OutOfStep(oldest) }
        };
        // As many answers as requests: none was lost.
        if line.places.is_empty() {
            entry.remove();
        }
        claim
    }

    /// No more answers come. All that wait are to be told.
    pub(super) fn end(&mut self) -> impl Iterator<Item = Tell> + use<> {
        let lines = std::mem::take(&mut self.0);
        lines.into_values().flat_map(|line| line.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<Bytes, RequestError>>;

    fn ask(requests: &mut Requests) -> Answer {
        let (tell, answer) = oneshot::channel();
        assert!(requests.enter(Asked { reply_id: 7, tell }));
        answer
    }

    /// The next message answers this request.
    fn answers(requests: &mut Requests, mut answer: Answer) -> bool {
        let Claim::Answer(tell) = requests.claim(7) else { return false };
        tell.send(Ok(Bytes::new())).is_ok() && answer.try_recv().is_ok()
    }

    fn is_too_late(requests: &mut Requests) -> bool {
        matches!(requests.claim(7), Claim::TooLate(_))
    }

    #[test]
    fn answers_go_to_the_requests_in_their_order_and_other_messages_to_nobody() {
        let mut requests = Requests::default();
        let one = ask(&mut requests);
        let two = ask(&mut requests);
        assert!(matches!(requests.claim(8), Claim::Nobody));
        assert!(answers(&mut requests, one));
        assert!(answers(&mut requests, two));
        assert!(matches!(requests.claim(7), Claim::Nobody));
        assert!(requests.0.is_empty());
    }

    #[test]
    fn a_place_is_not_forgotten_however_many_answers_are_late() {
        for late in 1..TOO_LATE {
            let mut requests = Requests::default();
            for _ in 0..late {
                drop(ask(&mut requests));
            }
            let next = ask(&mut requests);
            for _ in 0..late {
                assert!(is_too_late(&mut requests));
            }
            assert!(answers(&mut requests, next));
        }
    }

    #[test]
    fn a_lost_answer_ends_the_connection_after_eight_further_requests() {
        let mut requests = Requests::default();
        drop(ask(&mut requests));
        for _ in 1..TOO_LATE {
            let robbed = ask(&mut requests);
            assert!(is_too_late(&mut requests));
            drop(robbed);
        }
        let _eighth = ask(&mut requests);
        assert!(matches!(requests.claim(7), Claim::OutOfStep(_)));
    }

    #[test]
    fn an_answer_in_time_and_a_line_without_anybody_start_the_count_anew() {
        let mut requests = Requests::default();
        for _ in 0..3 * TOO_LATE {
            // As many answers as requests: slow, and in step.
            drop(ask(&mut requests));
            assert!(is_too_late(&mut requests));
        }
        let mut next = ask(&mut requests);
        for _ in 0..3 {
            for _ in 1..TOO_LATE {
                drop(ask(&mut requests));
            }
            let in_time = std::mem::replace(&mut next, ask(&mut requests));
            assert!(answers(&mut requests, in_time));
            for _ in 1..TOO_LATE {
                assert!(is_too_late(&mut requests));
            }
        }
    }

    #[test]
    fn what_is_remembered_of_a_server_that_never_answers_is_bounded_and_who_waits_counts_not() {
        let mut requests = Requests::default();
        let waiting: Vec<_> = (0..3 * GIVEN_UP).map(|_| ask(&mut requests)).collect();
        let enter = |requests: &mut Requests| {
            let (tell, _) = oneshot::channel();
            requests.enter(Asked { reply_id: 7, tell })
        };
        let entered = (0..3 * GIVEN_UP).take_while(|_| enter(&mut requests)).count();
        assert!((GIVEN_UP..=2 * GIVEN_UP).contains(&entered), "{entered}");
        assert_eq!(requests.end().filter(|tell| !tell.is_closed()).count(), waiting.len());

        let entered = (0..3 * GIVEN_UP).take_while(|_| enter(&mut requests)).count();
        assert_eq!(entered, GIVEN_UP);
    }
}
