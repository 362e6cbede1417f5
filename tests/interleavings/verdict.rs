//! What must be so when a case is over, whatever happened in it.

mod life;
mod reason;

use std::collections::HashMap;

use zinxide::{CloseReason, Conn, ConnId, Frame};

use crate::actions::Say;
use crate::case::Outcome;
use crate::clients::Client;
use crate::journal::Event;
use crate::senders::BROADCAST;
use life::Life;

pub(crate) fn assert_guarantees(outcome: &Outcome) {
    let trial = Trial::new(outcome);
    let lives: Vec<_> = outcome.clients.iter().map(|client| Life::new(&trial, client)).collect();
    lives.iter().for_each(Life::assert_guarantees);
    trial.assert_the_limit_holds();
    trial.assert_endings_add_up(&lives);
    trial.assert_faults_are_counted();
    trial.assert_answers_and_broadcasts_add_up(&lives);
}

/// What the verdict on each client needs of the others.
struct Trial<'a> {
    outcome: &'a Outcome,
    events: HashMap<ConnId, Vec<Event>>,
    conns: Vec<Conn>,
    broadcasts: Vec<Frame>,
    /// A broadcast found an outbox full.
    overflowed: bool,
}

impl<'a> Trial<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let mut events = HashMap::<_, Vec<_>>::new();
        for (id, event) in outcome.application.journal.events() {
            events.entry(id).or_default().push(event);
        }
        let senders = &outcome.application.senders;
        Self {
            outcome,
            events,
            conns: outcome.application.journal.conns(),
            broadcasts: senders.broadcasts(),
            overflowed: senders.reports().iter().any(|report| report.closed > 0),
        }
    }

    fn count(&self, is: impl Fn(&Event) -> bool) -> u64 {
        self.events.values().flatten().filter(|event| is(event)).count() as u64
    }

    /// G2.
    fn assert_the_limit_holds(&self) {
        let Outcome { stats, clients, stopped_early, setup, application, .. } = self.outcome;
        let most = application.journal.most();
        assert!(most <= setup.max_conn, "G2: {most} at once");
        let (met, dials) = (stats.admitted + stats.refused, clients.len() as u64);
        assert!(met == dials || *stopped_early && met < dials, "{met} of {dials} dials");
    }

    fn assert_endings_add_up(&self, lives: &[Life<'_>]) {
        let Outcome { stats, clients, stopped_early, clears_inside, .. } = self.outcome;
        assert_eq!(stats.admitted, stats.ended);
        let started = self.count(|event| *event == Event::Started);
        assert!(started <= stats.admitted, "G3: who is not admitted has started");
        let ended_before = |c: &Client| c.stopped || c.goodbye || c.removed || c.cleared || c.reset;
        let may_not_start = *stopped_early || *clears_inside || clients.iter().any(ended_before);
        assert!(started == stats.admitted || may_not_start, "G3: a start hook is missing");

        let endings = serde_json::to_value(stats.endings).unwrap();
        let endings = endings.as_object().unwrap().iter();
        let endings: Vec<_> = endings.map(|(key, n)| (key, n.as_u64().unwrap())).collect();
        assert_eq!(endings.iter().map(|(_, n)| n).sum::<u64>(), stats.ended);
        for (key, counted) in endings {
            let told = lives.iter().filter_map(|life| life.why).filter(|why| name(why) == key);
            let told = told.count() as u64;
            // Of those that never started, no hook tells.
            let most = told + stats.admitted - started;
            assert!((told..=most).contains(&counted), "{key}: {counted} counted, {told} told");
        }
    }

    fn assert_faults_are_counted(&self) {
        let Outcome { stats, clients, .. } = self.outcome;
        let begun = |what: Say| {
            self.count(|event| matches!(event, Event::Begun(id, _) if *id == what.id()))
        };
        let (in_actor, in_function) = (begun(Say::PanickingActor), begun(Say::PanickingFunction));
        assert_eq!(stats.panics, in_actor + in_function, "G9");
        assert!(stats.restarts <= in_actor, "G9: an actor died of nothing");
        let said = clients.iter().flat_map(|client| &client.said);
        let nowhere = said.filter(|said| said.what == Say::Nowhere).count() as u64;
        assert!(stats.unrouted <= nowhere, "G18");
        assert_eq!((stats.accept_errors, stats.not_alive), (0, 0));
    }

    /// G6.
    fn assert_answers_and_broadcasts_add_up(&self, lives: &[Life<'_>]) {
        let Outcome { stats, application, .. } = self.outcome;
        let came_back = self.count(|event| matches!(event, Event::Refused(_)));
        let dropped = stats.replies_dropped + came_back;
        let missing =
            |lives: &mut dyn Iterator<Item = &Life<'_>>| -> u64 { lives.map(Life::missing).sum() };
        let reports = application.senders.reports();
        assert_eq!(reports.len(), self.broadcasts.len());
        let accepted: usize = reports.iter().map(|report| report.accepted).sum();
        let received: usize = lives.iter().map(|life| life.heard_of(BROADCAST).count()).sum();
        if lives.iter().any(Life::is_lossy) {
            assert!(missing(&mut lives.iter()) >= dropped && accepted >= received);
            let mut safe = lives.iter().filter(|life| !life.is_lossy());
            assert!(missing(&mut safe) <= dropped, "answers are lost");
        } else {
            assert_eq!(missing(&mut lives.iter()), dropped, "answers are lost");
            assert_eq!(accepted, received, "broadcasts are lost");
            assert_eq!(stats.frames_cut, 0);
        }
    }
}

/// The name under which an ending is counted.
fn name(why: &CloseReason) -> &'static str {
    use CloseReason as R;
    match why {
        R::PeerClosed => "peer_closed",
        R::Protocol(_) => "protocol",
        R::NoRoute(_) => "no_route",
        R::Shutdown => "shutdown",
        R::Stopped => "stopped",
        R::App { .. } => "app",
        R::Removed => "removed",
        R::Cleared => "cleared",
        R::HandlerPanicked(_) => "handler_panicked",
        R::HookPanicked => "hook_panicked",
        R::HandlerGone(_) => "handler_gone",
        R::SlowConsumer(_) => "slow_consumer",
        R::Silent(_) => "silent",
        R::Io(_) => "io",
        R::WorkerGone => "worker_gone",
        other => panic!("an ending without a name: {other:?}"),
    }
}
