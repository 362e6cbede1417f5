use std::io::Write;
use std::net::TcpListener;
use std::sync::Mutex as StdMutex;

use tokio::io::AsyncReadExt;
use tokio::task::yield_now;

use super::*;
use crate::conn_manager::{Add, ConnManager};
use crate::endpoint::{ListenAddr, Scheme};
use crate::testing::{settings, within};
use crate::transport::Never;

/// More than a worker serves in one turn.
const STRANGERS: usize = 200;
/// tokio looks at the sockets after 61 tasks at most, so that the first message is heard in the middle of all.
const MESSAGES: usize = 2;

/// A worker on the test's thread, and a manager that has admitted strangers.
struct Strangers {
    worker: Addr<Worker>,
    local: Rc<Local>,
    serves: Vec<Serve>,
    /// Their ends of the sockets.
    peers: Vec<StdTcpStream>,
}

impl Strangers {
    async fn come(hooks: Hooks, limits: Limits, stack: &Stack) -> Self {
        let (settings, limits) = (settings(), Arc::new(limits));
        let local = Rc::new(Local::new(Arc::new(hooks), Lives::default(), Acknowledged::default()));
        let tcp = TcpOptions::new(&settings);
        let worker = Worker::new(Rc::clone(&local), tcp, Surroundings::default()).start();
        let manager = Arc::new(ConnManager::new(&settings).start());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let at = Arc::new(ListenAddr { scheme: Scheme::Tcp, addr, path: String::new() });
        let (mut serves, mut peers) = (Vec::new(), Vec::new());
        for id in 1..=STRANGERS as u64 {
            peers.push(StdTcpStream::connect(addr).unwrap());
            let (stream, peer) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let conn = Conn::new(id, peer, Arc::clone(&at), Arc::clone(&limits));
            let registration = Registration::new(&conn, Arc::clone(&manager));
            within(manager.send(Add(conn.clone()))).await.unwrap().unwrap();
            let slot = (!stack.is_bare()).then(|| limits.handshakes.try_slot().unwrap());
            let (stack, began) = (stack.clone(), Instant::now());
            let waits = Waits(Arc::new(AtomicUsize::new(1)));
            serves.push(Serve { conn, stream, stack, began, slot, registration, waits });
        }
        Self { worker, local, serves, peers }
    }
}

/// Somebody whose message comes when everything is ready that waits, and who sends more of them, one after the
/// other.
struct Honest {
    socket: StdTcpStream,
    heard: tokio::task::JoinHandle<usize>,
}

impl Honest {
    /// What `count` returns when the last message is heard.
    async fn listens(count: impl FnOnce() -> usize + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let socket = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = listener.accept().await.unwrap().0;
        let mut again = socket.try_clone().unwrap();
        let heard = actix_rt::spawn(async move {
            // A read that does not fill its buffer has the next one wait for the next look at the socket.
            let mut message = [0; 8];
            for _ in 1..MESSAGES {
                assert_eq!(stream.read(&mut message).await.unwrap(), 1);
                again.write_all(&[1]).unwrap();
            }
            assert_eq!(stream.read(&mut message).await.unwrap(), 1);
            count()
        });
        // Has it look, and wait for its socket.
        yield_now().await;
        Self { socket, heard }
    }
}

#[actix::test]
async fn a_message_that_comes_while_strangers_wait_to_be_served_is_handled_before_the_last_of_them()
{
    let order = Arc::new(StdMutex::new(Vec::new()));
    let starts = Arc::clone(&order);
    let on_start = move |conn: &Conn| starts.lock().unwrap().push(conn.id());
    let hooks = Hooks { on_start: Some(Box::new(on_start)), ..Hooks::default() };
    let limits = settings().limits(Arc::default());
    let strangers = Strangers::come(hooks, limits, &Stack::default()).await;
    // Each connection that is served holds it once.
    let local = Rc::clone(&strangers.local);
    let nobody = Rc::strong_count(&local);
    let mut honest = Honest::listens(move || Rc::strong_count(&local) - nobody).await;

    honest.socket.write_all(&[1]).unwrap();
    for serve in strangers.serves {
        strangers.worker.do_send(serve);
    }
    let before = within(honest.heard).await.unwrap();
    assert!(before < STRANGERS, "{before} strangers were served first");
    within(until(|| order.lock().unwrap().len() == STRANGERS)).await;
    let served = order.lock().unwrap().clone();
    assert!(served.into_iter().eq(1..=STRANGERS as u64), "all, in the order in which they came");
    drop(strangers.peers);
}

#[actix::test]
async fn a_message_that_comes_when_handshakes_end_together_is_handled_before_the_last_of_them() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&closed);
    let limits = settings().limits(Events::start(Some(Box::new(move |event| {
        if matches!(event, Event::Closed { .. }) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }))));
    let never = Arc::new(Never::default());
    let stack = Stack::new(vec![Arc::clone(&never) as _]);
    let mut strangers = Strangers::come(Hooks::default(), limits, &stack).await;
    let conns: Vec<_> = strangers.serves.iter().map(|serve| serve.conn.clone()).collect();
    for serve in strangers.serves {
        strangers.worker.do_send(serve);
    }
    for peer in &mut strangers.peers {
        peer.write_all(&[1]).unwrap();
    }
    within(until(|| never.asked.load(Ordering::Relaxed) == STRANGERS)).await;
    let count = Arc::clone(&closed);
    let mut honest = Honest::listens(move || count.load(Ordering::Relaxed)).await;

    honest.socket.write_all(&[1]).unwrap();
    conns.iter().for_each(Conn::stop);
    let before = within(honest.heard).await.unwrap();
    assert!(before < STRANGERS, "{before} handshakes were ended first");
    within(until(|| closed.load(Ordering::Relaxed) == STRANGERS)).await;
    drop(strangers.peers);
}

async fn until(is_over: impl Fn() -> bool) {
    while !is_over() {
        yield_now().await;
    }
}
