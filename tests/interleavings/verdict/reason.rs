//! Which reasons the actions of a case can explain.

use zinxide::{CloseReason, FrameError, Slow, Unrouted};

use super::Trial;
use crate::actions::Say;
use crate::clients::Client;

/// Whether the connection of `client` may have ended for this reason.
pub(super) fn explains(why: &CloseReason, client: &Client, trial: &Trial<'_>) -> bool {
    use CloseReason as R;
    let outcome = trial.outcome;
    let said = |what: Say| client.said.iter().any(|said| said.what == what);
    match why {
        // A broadcast may have met the error first: what is left of a reset is an end.
        R::PeerClosed | R::Protocol(FrameError::Truncated { .. }) if client.reset => true,
        R::PeerClosed => client.fin && client.broke.is_none(),
        R::Protocol(error @ FrameError::Truncated { .. }) => client.fin && broke_by(client, error),
        R::Protocol(error) => broke_by(client, error),
        R::NoRoute(id) => {
            let closes = outcome.setup.unrouted == Unrouted::Close;
            closes && *id == Say::Nowhere.id() && said(Say::Nowhere)
        }
        // In a case that nobody stops, those are there at the end who came to fill it up.
        R::Shutdown => outcome.stopped_early || !client.fin,
        R::Stopped => client.stopped || said(Say::Stopping),
        R::App { .. } => client.goodbye,
        R::Removed => client.removed,
        R::Cleared => client.cleared || outcome.clears_inside,
        R::HandlerPanicked(id) => {
            let panics = [Say::PanickingFunction, Say::PanickingActor];
            panics.iter().any(|&what| what.id() == *id && said(what))
        }
        // The actor died of another's message while it had this one.
        R::HandlerGone(id) => {
            let mut all = outcome.clients.iter().flat_map(|client| &client.said);
            let died = all.any(|said| said.what == Say::PanickingActor);
            died && *id == Say::ClearingActor.id() && said(Say::ClearingActor)
        }
        R::SlowConsumer(Slow::OutboxFull) => trial.overflowed,
        R::Io(_) => client.reset,
        _ => false,
    }
}

fn broke_by(client: &Client, error: &FrameError) -> bool {
    client.broke.is_some_and(|(_, how)| how == *error)
}
