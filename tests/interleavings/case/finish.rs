//! The end of a case: everybody leaves, or the server does.

use futures_util::future::join_all;
use zinxide::conn_manager::ConnNotFound;
use zinxide::{Frame, SendError, ServerHandle, Stats};

use super::Case;
use crate::actions::{Say, Setup};
use crate::application::Application;
use crate::clients::Client;
use crate::journal::Journal;

/// A case that is over.
pub(crate) struct Outcome {
    pub(crate) setup: Setup,
    pub(crate) application: Application,
    pub(crate) clients: Vec<Client>,
    pub(crate) stats: Stats,
    pub(crate) stopped_early: bool,
    pub(crate) clears_inside: bool,
}

impl Case {
    /// Brings everything to its end.
    pub(crate) async fn finish(mut self) -> Outcome {
        self.application.gate.close();
        for task in std::mem::take(&mut self.tasks) {
            self.journal().within("what was begun is done", task).await.unwrap();
        }
        if !self.stopping {
            self.part().await;
            self.fill_up().await;
        }
        let handle = self.handle().clone();
        self.journal().within("the server stops", handle.stop()).await;
        self.server.ended().await.unwrap();
        for client in &self.clients {
            client.heard.the_end(&self.application.journal).await;
        }
        let journal = &self.application.journal;
        journal.within("all is answered", assert_handles_outlive(journal, &handle)).await;
        Outcome {
            setup: self.setup,
            application: self.application,
            clients: self.clients,
            stats: handle.stats(),
            stopped_early: self.stopping,
            clears_inside: self.clears_inside,
        }
    }

    /// All clients leave. Those whose connections the application has ended need not be asked to.
    async fn part(&mut self) {
        for client in
            self.clients.iter().filter(|client| client.stopped || client.goodbye || client.removed)
        {
            client.heard.the_end(&self.application.journal).await;
        }
        for client in self.clients.iter_mut().filter(|client| client.is_there()) {
            client.fin();
        }
        for client in &self.clients {
            client.heard.the_end(&self.application.journal).await;
        }
        let gone = async {
            // The manager counts on its own thread, and after it has changed the table.
            let counted = || self.handle().stats().ended >= self.handle().stats().admitted;
            while !(self.handle().connections().is_empty() && counted()) {
                tokio::task::yield_now().await;
            }
        };
        self.journal().within("the table is empty", gone).await;
        let stats = self.handle().stats();
        assert_eq!(stats.admitted, stats.ended, "all are gone");
        assert_eq!(stats.admitted + stats.refused, self.clients.len() as u64);
    }

    /// As many as are allowed are admitted again and served by all kinds of routes; one more is not.
    async fn fill_up(&mut self) {
        let there_were = self.clients.len();
        let clients = join_all((0..self.setup.max_conn).map(|_| self.dialled())).await;
        self.clients.extend(clients);
        for index in there_were..self.clients.len() {
            self.settle(index).await;
            let client = &mut self.clients[index];
            for what in [Say::Function, Say::Actor, Say::Shared] {
                client.say(what, 10);
            }
            self.hear_all(index).await;
            assert!(!self.clients[index].has_ended(), "there was room for it");
        }
        let refused = self.handle().stats().refused;
        let client = self.dialled().await;
        self.clients.push(client);
        self.clients.last().unwrap().heard.the_end(self.journal()).await;
        assert_eq!(self.handle().stats().refused, refused + 1, "one too many");
    }
}

/// G15: what is kept of a connection does no harm, and does nothing.
async fn assert_handles_outlive(journal: &Journal, server: &ServerHandle) {
    let before = server.stats();
    for conn in journal.conns() {
        let frame = Frame::new(1, "too late");
        let closed = || Err(SendError::Closed(frame.clone()));
        assert_eq!(conn.send_buffered(1, "too late"), closed());
        assert_eq!(conn.send(1, "too late").await, closed());
        conn.stop();
        assert!(conn.is_closed());
        assert!(conn.set_property(1_u8).is_none() && conn.property::<u8>().is_none());
        assert!(conn.remove_property::<u8>().is_none());
        assert_eq!(server.remove(conn.id()).await, Err(ConnNotFound(conn.id())));
    }
    assert_eq!(server.clear_conn().await, 0);
    assert_eq!(server.broadcast((1, "")).await.map(|report| report.accepted), Ok(0));
    assert_eq!(server.stats(), before, "nothing happens any more");
}
