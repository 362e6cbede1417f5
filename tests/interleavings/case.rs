//! Plays a case on a real server.

mod finish;

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::task::JoinHandle;
use futures_util::future::{join, join_all};
use zinxide::conn_manager::ConnNotFound;
use zinxide::testing::TestServer;
use zinxide::{Conn, Goodbye, ServerHandle};

use crate::actions::{Action, SLOTS, Say, Setup};
use crate::application::Application;
use crate::clients::Client;
use crate::journal::{Journal, payload};
use crate::senders::LAST;
pub(crate) use finish::Outcome;

pub(crate) struct Case {
    setup: Setup,
    application: Application,
    server: TestServer,
    clients: Vec<Client>,
    /// Which of them dialled last in each slot.
    slots: [Option<usize>; SLOTS],
    used: RefCell<HashSet<SocketAddr>>,
    /// What the application has begun and nobody waits for yet.
    tasks: Vec<JoinHandle<()>>,
    /// The server has been told to stop by an action.
    stopping: bool,
    /// A message was sent whose handler clears.
    clears_inside: bool,
}

impl Case {
    pub(crate) async fn start(setup: Setup, patience: Duration) -> Self {
        let application = Application::new(patience);
        let server = TestServer::start(application.server(&setup)).await;
        application.serves(server.handle());
        // No client may get the port when it is free again: it would dial itself.
        let used = RefCell::new(HashSet::from([server.addr()]));
        Self {
            setup,
            application,
            server,
            clients: Vec::new(),
            slots: [None; SLOTS],
            used,
            tasks: Vec::new(),
            stopping: false,
            clears_inside: false,
        }
    }

    fn journal(&self) -> &Arc<Journal> {
        &self.application.journal
    }

    fn handle(&self) -> &ServerHandle {
        self.server.handle()
    }

    fn in_slot(&mut self, slot: usize) -> Option<&mut Client> {
        self.slots[slot].map(|index| &mut self.clients[index])
    }

    /// The client in this slot and its connection, if it is admitted and not known to have ended.
    fn admitted(&mut self, slot: usize) -> Option<(&mut Client, Conn)> {
        let index = self.slots[slot]?;
        let conn = self.journal().conn_of(self.clients[index].addr)?;
        let client = &mut self.clients[index];
        (!client.has_ended()).then_some((client, conn))
    }

    pub(crate) async fn perform(&mut self, action: &Action) {
        self.journal().look();
        match *action {
            Action::Dial { slot, many, settle } => {
                let slots = (slot..slot + many).map(|slot| slot % SLOTS);
                let free = |slot: &usize| {
                    self.slots[*slot].is_none_or(|index| self.clients[index].has_ended())
                };
                let slots: Vec<_> = slots.filter(free).collect();
                // The port of a server that stops may soon be somebody else's.
                if !self.stopping {
                    self.dial(slots, settle).await;
                }
            }
            Action::Say { slot, ref what, size } => {
                if let Some(client) = self.in_slot(slot).filter(|client| client.can_talk()) {
                    what.iter().for_each(|what| client.say(*what, size));
                    self.clears_inside |= what.iter().any(|what| what.clears());
                }
            }
            Action::Push { slot, tasks, ref ways, size } => {
                if let Some((_, conn)) = self.admitted(slot) {
                    for _ in 0..tasks {
                        let mut sender = self.application.senders.hire();
                        let (conn, ways) = (conn.clone(), ways.clone());
                        self.spawn(async move { sender.send(&conn, &ways, size).await });
                    }
                }
            }
            Action::Broadcast { size } => {
                let mut sender = self.application.senders.hire();
                self.spawn(async move { sender.broadcast(size).await });
            }
            Action::Fin { slot } => self.there(slot, Client::fin),
            Action::Reset { slot } => self.there(slot, Client::reset),
            Action::Half { slot, bytes, fin } => self.there(slot, |client| {
                if client.can_talk() {
                    client.say_half(bytes, fin);
                }
            }),
            Action::Oversize { slot, excess } => self.there(slot, |client| {
                if client.can_talk() {
                    client.announce(excess);
                }
            }),
            Action::Stop { slot } => {
                if let Some((client, conn)) = self.admitted(slot) {
                    client.stopped = true;
                    conn.stop();
                    assert!(conn.is_closed());
                }
            }
            Action::Goodbye { slot, size } => {
                if let Some((client, conn)) = self.admitted(slot) {
                    let goodbye = Goodbye::new(4500, "").last_frame((LAST, payload(&[0], size)));
                    client.goodbye |= conn.close_with(goodbye).is_ok();
                    assert!(conn.is_closed());
                }
            }
            Action::Remove { slot, wait } => self.remove(slot, wait).await,
            Action::Clear { times, wait } => self.clear(times, wait).await,
            Action::Release { permits } => self.application.gate.add_permits(permits),
            Action::Hear { slot } => self.hear(slot).await,
            Action::Yield { times } => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Action::Shutdown { dials } => self.shut_down(dials).await,
        }
    }

    fn there(&mut self, slot: usize, act: impl FnOnce(&mut Client)) {
        if let Some(client) = self.in_slot(slot).filter(|client| client.is_there()) {
            act(client);
        }
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.tasks.push(actix_rt::spawn(task));
    }

    async fn dial(&mut self, slots: Vec<usize>, settle: bool) {
        let clients = join_all(slots.iter().map(|_| self.dialled())).await;
        for (slot, client) in slots.into_iter().zip(clients) {
            self.slots[slot] = Some(self.clients.len());
            self.clients.push(client);
            if settle {
                self.settle(self.clients.len() - 1).await;
            }
        }
    }

    async fn dialled(&self) -> Client {
        self.try_dial().await.expect("the server listens")
    }

    async fn try_dial(&self) -> Option<Client> {
        let addr = self.handle().local_addr();
        Client::dial(addr, self.setup.wire, &self.used, self.journal()).await
    }

    /// Those who dial are in the system's queue when the server stops.
    async fn shut_down(&mut self, dials: usize) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let mut stop = None;
        let dials = join_all((0..dials).map(|_| self.try_dial()));
        let (clients, ()) = join(dials, async { stop = Some(self.handle().stop()) }).await;
        self.clients.extend(clients.into_iter().flatten());
        self.spawn(stop.expect("the last of both is done"));
    }

    /// Waits until the server has met the client, or refused it.
    async fn settle(&self, index: usize) {
        let client = &self.clients[index];
        let met = || client.has_ended() || self.journal().has_started(client.addr);
        self.journal().until("a dial is admitted or refused", met).await;
    }

    async fn remove(&mut self, slot: usize, wait: bool) {
        let Some((client, conn)) = self.admitted(slot) else { return };
        client.removed = true;
        let (heard, id) = (Rc::clone(&client.heard), conn.id());
        let removed = self.handle().remove(id);
        let table = self.handle().connections().clone();
        let journal = Arc::clone(self.journal());
        let gone = async move {
            let removed = removed.await;
            assert!(matches!(removed, Ok(()) | Err(ConnNotFound(_))));
            assert!(conn.is_closed());
            assert!(table.get(id).is_none(), "{conn} is still there");
            heard.the_end(&journal).await;
        };
        self.now_or_later(gone, wait).await;
    }

    async fn clear(&mut self, times: usize, wait: bool) {
        let conns = self.handle().connections().all();
        for client in &mut self.clients {
            client.cleared = true;
        }
        let of = |conn: &Conn| self.clients.iter().find(|client| client.addr == conn.peer_addr());
        let heard = conns.iter().filter_map(of).map(|client| Rc::clone(&client.heard));
        let heard: Vec<_> = heard.collect();
        let clears: Vec<_> = (0..times).map(|_| self.handle().clear_conn()).collect();
        let table = self.handle().connections().clone();
        let (journal, max_conn) = (Arc::clone(self.journal()), self.setup.max_conn);
        let gone = async move {
            for cleared in join_all(clears).await {
                assert!(cleared <= max_conn);
            }
            for conn in conns {
                assert!(conn.is_closed());
                assert!(table.get(conn.id()).is_none(), "{conn} is still there");
            }
            for heard in heard {
                heard.the_end(&journal).await;
            }
        };
        self.now_or_later(gone, wait).await;
    }

    async fn now_or_later(&mut self, task: impl Future<Output = ()> + 'static, now: bool) {
        if now {
            self.journal().within("a removal is done", task).await;
        } else {
            self.spawn(task);
        }
    }

    /// Nobody at the gate may stand before an answer.
    async fn hear(&mut self, slot: usize) {
        let gated =
            |client: &Client| client.said.iter().filter(|said| said.what == Say::Gated).count();
        self.application.gate.add_permits(self.clients.iter().map(gated).sum());
        if let Some(index) = self.slots[slot] {
            self.hear_all(index).await;
        }
    }

    async fn hear_all(&self, index: usize) {
        let client = &self.clients[index];
        let heard = || client.has_ended() || client.answers() == client.questions();
        self.journal().until("all is answered", heard).await;
    }
}
