//! The phases of a stop, and its report.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use std::{fmt, thread};

use actix::{Actor, Context, Handler, System};
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{ConnId, Event, Frame, Inbound, Server, ServerError, Settings, Stats, StopReport};

const ECHO: u32 = 1;
const SLOW: u32 = 2;
const NEVER: u32 = 3;
const NOTICE: u32 = 9;

fn server(settings: Settings) -> Server {
    Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .route_fn(NEVER, async |_: Inbound| std::future::pending::<()>().await)
        .route_fn(SLOW, async |msg: Inbound| {
            tokio::time::sleep(Duration::from_millis(50)).await;
            msg
        })
}

async fn connect(server: &TestServer) -> TestClient {
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ECHO, "").await;
    client.recv().await.unwrap();
    client
}

#[actix::test]
async fn clients_are_told_and_served_until_the_notice_is_over() {
    let settings = Settings { notice_ms: 300, ..settings() };
    let server = TestServer::start(server(settings).shutdown_notice((NOTICE, "soon"))).await;
    let (addr, handle) = (server.addr(), server.handle().clone());
    let mut client = connect(&server).await;
    let began = Instant::now();
    let stopping = actix_rt::spawn(server.stop());
    assert_eq!(client.recv().await, Some(Frame::new(NOTICE, "soon")));
    assert!(TcpStream::connect(addr).await.is_err(), "the port is free");
    client.send(ECHO, "last words").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "last words")));
    assert_eq!(client.recv().await, None);
    assert!(began.elapsed() >= Duration::from_millis(300));
    drop(client);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.connections, 1);
    assert_eq!(handle.stats().endings.shutdown, 1);
}

#[actix::test]
async fn the_notice_is_over_when_all_have_left() {
    let settings = Settings { notice_ms: 60_000, ..settings() };
    let server = TestServer::start(server(settings).shutdown_notice((NOTICE, ""))).await;
    let handle = server.handle().clone();
    let mut clients = [connect(&server).await, connect(&server).await];
    let stopping = actix_rt::spawn(server.stop());
    for client in &mut clients {
        assert_eq!(client.recv().await, Some(Frame::new(NOTICE, "")));
    }
    drop(clients);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.took < Duration::from_secs(30));
    let endings = handle.stats().endings;
    assert_eq!((endings.peer_closed + endings.io, endings.shutdown), (2, 0));
}

#[actix::test]
async fn what_was_received_is_answered_and_the_report_is_clean() {
    let server = TestServer::start(server(settings())).await;
    let mut client = connect(&server).await;
    // In one write, so that all have been read when the first is answered.
    client.send_bytes(&b"\x04\0\0\0\x02\0\0\0slow".repeat(3)).await;
    client.recv().await.unwrap();
    let stopping = actix_rt::spawn(server.stop());
    assert_eq!(client.recv_to_end().await.len(), 2);
    drop(client);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.connections, report.cut), (1, 0));
}

#[actix::test]
async fn what_was_cut_is_in_the_report() {
    let (tx, mut stopped) = unbounded_channel();
    let settings = Settings {
        drain_deadline_ms: 100,
        worker_pool_size: 1,
        max_packet_size: 1 << 20,
        max_msg_chan_bytes: 64 << 20,
        ..settings()
    };
    let server = server(settings).on_event(move |event| {
        if let Event::Stopped { report, .. } = event {
            tx.send((**report, event.to_string())).unwrap();
        }
    });
    let server = TestServer::start(server).await;
    // One does not read, one has a handler that never ends, with a message behind it.
    let _deaf = connect(&server).await;
    let handle = server.handle().clone();
    let deaf = handle.connections().all().pop().unwrap();
    let mut sent = 0;
    while sent < 32 {
        within(deaf.send(ECHO, vec![0; 1 << 20])).await.unwrap();
        sent += 1;
    }
    let mut hangs = connect(&server).await;
    // In one write, so that both are read before the first is handled.
    hangs.send_bytes(b"\0\0\0\0\x03\0\0\0\x06\0\0\0\x01\0\0\0behind").await;
    let mut fine = connect(&server).await;
    fine.send(ECHO, "").await;
    fine.recv().await.unwrap();

    let report = within(server.stop()).await.unwrap();
    assert!(!report.is_clean());
    assert_eq!((report.connections, report.cut, report.messages_unfinished), (3, 2, 1));
    assert!((1..=32).contains(&report.frames_cut), "{report:?}");
    assert!(report.bytes_cut > 0 && report.bytes_cut <= 32 * ((1 << 20) + 8), "{report:?}");
    let stats = handle.stats();
    assert_eq!((stats.frames_cut, stats.bytes_cut), (report.frames_cut, report.bytes_cut));
    assert_eq!(report.bytes_unhandled, 8 + "behind".len() as u64);
    let (told, words) = within(stopped.recv()).await.unwrap();
    assert_eq!(told, report);
    assert!(words.contains("frames (") && words.contains("3 connections"), "{words}");
}

#[actix::test]
async fn a_dial_during_the_stop_is_not_admitted() {
    let settings = Settings { notice_ms: 200, ..settings() };
    let server = TestServer::start(server(settings).shutdown_notice((NOTICE, ""))).await;
    let mut client = connect(&server).await;
    let handle = server.handle().clone();
    let stopping = actix_rt::spawn(server.stop());
    assert_eq!(client.recv().await, Some(Frame::new(NOTICE, "")));
    let late = zinxide::testing::conn(99, &zinxide::testing::settings());
    let refused = handle.conn_manager().send(zinxide::conn_manager::Add(late)).await.unwrap();
    assert_eq!(refused, Err(zinxide::conn_manager::AddError::Draining));
    drop(client);
    within(stopping).await.unwrap().unwrap();
}

#[actix::test]
async fn a_notice_is_not_waited_for_longer_than_its_time_whatever_the_workers_do() {
    let (free, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (tx, mut blocked) = unbounded_channel();
    let settings =
        Settings { worker_pool_size: 1, drain_deadline_ms: 100, notice_ms: 100, ..settings() };
    let server =
        server(settings).shutdown_notice((NOTICE, "")).route_fn(4, async move |_: Inbound| {
            tx.send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
        });
    let server = TestServer::start(server).await;
    let mut client = connect(&server).await;
    client.send(4, "").await;
    within(blocked.recv()).await.unwrap();
    let report = within(server.stop()).await.unwrap();
    assert_eq!((report.cut, report.workers_stuck, report.left_behind), (1, 1, 1));
    assert_eq!(report.messages_unfinished, 1);
    assert!(!report.is_clean());
    assert!(report.to_string().ends_with("1 workers stuck with 1 connections"), "{report}");
    drop(free);
}

#[actix::test]
async fn a_notice_that_no_outbox_can_take_is_an_error_at_once() {
    let frame = Frame::new(NOTICE, vec![0; 2 << 20]);
    let server = server(settings()).shutdown_notice(frame.clone());
    let Err(error) = server.bind().await else { panic!("it starts") };
    assert!(matches!(error, ServerError::Notice(given) if given == frame));
}

#[actix::test]
async fn nothing_is_left_of_a_server_that_has_ended() {
    let alive = Arc::new(());
    let observer = Arc::clone(&alive);
    let server = server(settings()).on_event(move |_| {
        let _ = &observer;
    });
    let server = TestServer::start(server).await;
    drop(connect(&server).await);
    server.stop().await.unwrap();
    // The actors of this thread end when it has nothing else to do.
    let gone = async {
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}

/// Stops a server whose handler ends its own connection and then works on for this long. Answers the
/// report, and whether the handler got to its end.
async fn stop_while_a_handler_works(settings: Settings, time: Duration) -> (StopReport, bool) {
    let (tx, mut steps) = unbounded_channel();
    let done = tx.clone();
    let server = server(settings).route_fn(4, async move |msg: Inbound| {
        msg.conn().stop();
        tx.send("works").unwrap();
        tokio::time::sleep(time).await;
        done.send("done").unwrap();
    });
    let server = TestServer::start(server).await;
    let mut client = connect(&server).await;
    client.send(4, "").await;
    assert_eq!(within(steps.recv()).await, Some("works"));
    assert_eq!(client.recv().await, None);
    drop(client);
    let report = server.stop().await.unwrap();
    (report, steps.try_recv() == Ok("done"))
}

#[actix::test]
async fn a_stop_waits_for_handlers_whose_connections_are_gone_already() {
    let time = Duration::from_millis(300);
    let (report, done) = stop_while_a_handler_works(settings(), time).await;
    assert!(done);
    assert!(report.is_clean(), "{report}");
}

#[actix::test]
async fn a_handler_that_outlasts_the_deadline_without_its_connection_is_in_the_report() {
    let settings = Settings { drain_deadline_ms: 200, ..settings() };
    let (report, done) = stop_while_a_handler_works(settings, Duration::from_secs(3600)).await;
    assert!(!done);
    assert_eq!((report.cut, report.messages_unfinished), (1, 1), "{report:?}");
}

const WORKERS: usize = 4;
const KEEP: u32 = 4;
const PANIC: u32 = 5;
const BLOCK: u32 = 6;
const WHERE: u32 = 7;

/// What is under way when a server is stopped.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Connections with nothing to do.
    idle: usize,
    /// Connections with a function that waits for ever.
    waiting: usize,
    /// Connections whose messages, two each, a handler actor keeps for ever.
    kept: usize,
    /// Connections whose handler has panicked.
    panicked: usize,
    /// Connections that ended while their function waits for ever.
    outlasted: usize,
    /// Workers whose thread a handler blocks, with messages behind the one that does.
    blocked: usize,
    /// The blocked workers go on when all that is to be cut short is.
    released: bool,
    /// Clients get a notice.
    notice: bool,
}

/// Keeps its messages.
#[derive(Default)]
struct Keeper(Vec<Inbound>);

impl Actor for Keeper {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Keeper {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        self.0.push(msg);
    }
}

/// How often each connection's end was cut short, and with which words.
#[derive(Clone, Default)]
struct CutShort(Arc<Mutex<HashMap<ConnId, Vec<String>>>>);

impl CutShort {
    fn note(&self, event: &Event<'_>) -> bool {
        let Event::CutShort { conn, .. } = event else { return false };
        self.0.lock().unwrap().entry(conn.id()).or_default().push(event.to_string());
        true
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().values().flatten().cloned().collect()
    }
}

fn endings(stats: &Stats) -> u64 {
    let endings = serde_json::to_value(stats.endings).unwrap();
    endings.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

/// Sends a message and waits until the server's side says that it has it.
async fn until_begun(
    client: &mut TestClient,
    bytes: &[u8],
    begun: &mut tokio::sync::mpsc::UnboundedReceiver<()>,
    times: usize,
) {
    client.send_bytes(bytes).await;
    for _ in 0..times {
        within(begun.recv()).await.unwrap();
    }
}

/// A message without a payload, as the default format has it.
fn bare(id: u32) -> Vec<u8> {
    [0, id].into_iter().flat_map(u32::to_le_bytes).collect()
}

async fn check_the_sums(load: Load) {
    let (begin, mut begun) = unbounded_channel();
    let (free, blocked) = mpsc::channel::<()>();
    let (free, blocked) = (Mutex::new(Some(free)), Mutex::new(blocked));
    let free = Arc::new(free);
    let (cut, due) = (CutShort::default(), Arc::new(AtomicUsize::new(0)));
    let settings = Settings {
        // Theirs begins before the stop, and must not be over when that comes.
        drain_deadline_ms: if load.outlasted > 0 { 3000 } else { 100 },
        notice_ms: if load.notice { 30 } else { 0 },
        worker_pool_size: WORKERS,
        ..settings()
    };
    let server = server(settings)
        .route_fn(WHERE, async |_: Inbound| (WHERE, format!("{:?}", thread::current().id())))
        .route_fn(NEVER + 100, {
            let begin = begin.clone();
            async move |_: Inbound| {
                begin.send(()).unwrap();
                std::future::pending::<()>().await;
            }
        })
        .route_fn(NEVER + 200, {
            let begin = begin.clone();
            async move |msg: Inbound| {
                msg.conn().stop();
                begin.send(()).unwrap();
                std::future::pending::<()>().await;
            }
        })
        .route(KEEP, Keeper::default)
        .route_fn(PANIC, async |_: Inbound| -> () { panic!("on purpose") })
        .route_fn(BLOCK, async move |_: Inbound| {
            begin.send(()).unwrap();
            let _ = blocked.lock().unwrap().recv();
        })
        .on_event({
            let (cut, due, free) = (cut.clone(), Arc::clone(&due), Arc::clone(&free));
            move |event| {
                if cut.note(event) && load.released && cut.all().len() == due.load(SeqCst) {
                    free.lock().unwrap().take();
                }
            }
        });
    let server = if load.notice { server.shutdown_notice((NOTICE, "")) } else { server };
    let server = TestServer::start(server).await;
    let handle = server.handle().clone();
    let mut on = HashMap::<Vec<u8>, OnWorker>::new();
    let mut clients = Vec::new();
    let mut open = async |late: bool, outlasted: bool| {
        let mut client = connect(&server).await;
        client.send(WHERE, "").await;
        let worker = client.recv().await.unwrap().payload.to_vec();
        let on = on.entry(worker.clone()).or_default();
        on.all += 1;
        on.late += usize::from(late);
        on.outlasted += usize::from(outlasted);
        (client, worker)
    };
    for _ in 0..load.panicked {
        let mut client = connect(&server).await;
        client.send(PANIC, "").await;
        assert_eq!(client.recv().await, None);
    }
    within(async {
        while !handle.connections().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..load.idle {
        clients.push(open(false, false).await.0);
    }
    for _ in 0..load.waiting {
        let (mut client, _) = open(true, false).await;
        until_begun(&mut client, &bare(NEVER + 100), &mut begun, 1).await;
        clients.push(client);
    }
    for _ in 0..load.kept {
        let (mut client, _) = open(true, false).await;
        client.send_bytes(&bare(KEEP).repeat(2)).await;
        // Answered when both are done, which is never; so ask somebody else of that worker.
        clients.push(client);
    }
    for _ in 0..load.outlasted {
        let (mut client, _) = open(true, true).await;
        until_begun(&mut client, &bare(NEVER + 200), &mut begun, 1).await;
        assert_eq!(client.recv().await, None);
        drop(client);
    }
    within(async {
        // They leave the table soon.
        while handle.connections().len() > load.idle + load.waiting + load.kept {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut blockers = HashMap::new();
    while blockers.len() < load.blocked {
        let (client, worker) = open(false, false).await;
        match blockers.entry(worker) {
            std::collections::hash_map::Entry::Vacant(free) => drop(free.insert(client)),
            std::collections::hash_map::Entry::Occupied(_) => clients.push(client),
        }
    }
    // Each worker has taken up what came before.
    for _ in 0..3 * WORKERS {
        clients.push(open(false, false).await.0);
    }
    for client in blockers.values_mut() {
        let bytes = [bare(BLOCK), bare(ECHO).repeat(10)].concat();
        until_begun(client, &bytes, &mut begun, 1).await;
    }
    let on_blocked = tally(&on, |worker| blockers.contains_key(worker));
    let all = tally(&on, |_| true);
    let to_be_cut = on_blocked.all + all.late - on_blocked.late;
    due.store(to_be_cut, SeqCst);

    let report = within(server.stop()).await.unwrap();
    let context = Found { load, report };
    let stuck = if load.released { 0 } else { load.blocked };
    let left = if load.released { 0 } else { on_blocked.all - on_blocked.outlasted };
    assert_eq!(report.connections, all.all, "{context}");
    assert_eq!(report.cut as usize, to_be_cut, "{context}");
    assert_eq!((report.workers_stuck, report.left_behind), (stuck, left), "{context}");
    let unfinished = load.waiting + load.outlasted + 2 * load.kept + load.blocked;
    assert_eq!(report.messages_unfinished as usize, unfinished, "{context}");
    let stats = handle.stats();
    assert_eq!(stats.admitted, stats.ended + report.left_behind as u64, "{context}");
    assert_eq!(endings(&stats), stats.ended, "{context}");
    assert_eq!(handle.connections().len(), report.left_behind, "{context}");

    drop(free.lock().unwrap().take());
    within(async {
        while handle.stats().ended < stats.admitted {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let stats = handle.stats();
    assert_eq!(endings(&stats), stats.ended, "{context}");
    assert_eq!(stats.messages_unfinished as usize, unfinished, "{context}");
    assert_eq!((stats.cut_short, cut.all().len()), (report.cut, report.cut as usize), "{context}");
    assert!(cut.0.lock().unwrap().values().all(|words| words.len() == 1), "{context}");
    assert!(cut.all().iter().all(|words| words.contains("the drain deadline passed")), "{context}");
}

/// The connections of a worker.
#[derive(Clone, Copy, Debug, Default)]
struct OnWorker {
    all: usize,
    /// Those whose end will not be over in time.
    late: usize,
    /// Those of these that have left the table.
    outlasted: usize,
}

fn tally(on: &HashMap<Vec<u8>, OnWorker>, which: impl Fn(&Vec<u8>) -> bool) -> OnWorker {
    let which = on.iter().filter(|(worker, _)| which(worker));
    which.fold(OnWorker::default(), |sum, (_, on)| OnWorker {
        all: sum.all + on.all,
        late: sum.late + on.late,
        outlasted: sum.outlasted + on.outlasted,
    })
}

/// What is said of a sum that is wrong.
struct Found {
    load: Load,
    report: StopReport,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.load, self.report)
    }
}

#[actix::test]
async fn the_sums_of_a_report_add_up_if_nothing_is_blocked() {
    let none = Load::default();
    for load in [
        none,
        Load { idle: 20, ..none },
        Load { idle: 20, notice: true, ..none },
        Load { idle: 3, waiting: 9, ..none },
        Load { kept: 5, panicked: 4, ..none },
        Load { idle: 3, outlasted: 5, waiting: 2, notice: true, ..none },
        Load { idle: 5, waiting: 200, kept: 30, panicked: 3, ..none },
    ] {
        check_the_sums(load).await;
    }
}

#[actix::test]
async fn the_sums_of_a_report_add_up_if_workers_are_blocked() {
    let none = Load::default();
    for load in [
        Load { blocked: 1, ..none },
        Load { idle: 12, blocked: 2, panicked: 2, ..none },
        Load { idle: 4, waiting: 40, kept: 6, outlasted: 6, blocked: 3, notice: true, ..none },
        Load { waiting: 10, blocked: WORKERS, ..none },
    ] {
        check_the_sums(load).await;
    }
}

#[actix::test]
async fn the_sums_of_a_report_add_up_if_blocked_workers_go_on_after_the_deadline() {
    let none = Load { released: true, ..Load::default() };
    for load in [
        Load { idle: 8, blocked: 1, ..none },
        Load { idle: 40, waiting: 60, kept: 8, outlasted: 8, blocked: 3, ..none },
    ] {
        check_the_sums(load).await;
    }
}

#[test]
fn a_system_that_stops_under_a_server_is_what_the_words_say_and_the_sums_add_up() {
    let cut = CutShort::default();
    let noted = cut.clone();
    System::new().block_on(async move {
        let (begin, mut begun) = unbounded_channel();
        let server = server(settings())
            .route_fn(BLOCK, async move |_: Inbound| {
                begin.send(()).unwrap();
                std::future::pending::<()>().await;
            })
            .on_event(move |event| {
                noted.note(event);
            });
        let server = TestServer::start(server).await;
        let mut clients = [connect(&server).await, connect(&server).await, connect(&server).await];
        for client in &mut clients[..2] {
            until_begun(client, &bare(BLOCK), &mut begun, 1).await;
        }
        System::current().stop();
        for client in &mut clients {
            assert_eq!(client.recv().await, None);
        }
        let handle = server.handle().clone();
        let ended = server.ended().await;
        assert!(matches!(ended, Err(ServerError::WorkerLost { .. })), "{ended:?}");
        let stats = handle.stats();
        assert_eq!((stats.admitted, stats.ended, stats.endings.worker_gone), (3, 3, 3));
        assert_eq!((stats.cut_short, stats.messages_unfinished), (2, 2));
    });
    assert_eq!(cut.all().len(), 2);
    for words in cut.all() {
        assert!(words.contains("its worker was stopped before it had ended"), "{words}");
    }
}

#[test]
fn a_system_that_stops_during_the_drain_is_what_the_words_say_and_the_sums_add_up() {
    let cut = CutShort::default();
    let noted = cut.clone();
    let report = System::new().block_on(async move {
        let (begin, mut begun) = unbounded_channel();
        // Only the end of the system ends this drain.
        let settings = Settings { drain_deadline_ms: 3_600_000, ..settings() };
        let server = server(settings)
            .route_fn(BLOCK, async move |_: Inbound| {
                begin.send(()).unwrap();
                std::future::pending::<()>().await;
            })
            .on_event(move |event| {
                noted.note(event);
            });
        let server = TestServer::start(server).await;
        let handle = server.handle().clone();
        let (mut idle, mut waits) = (connect(&server).await, connect(&server).await);
        until_begun(&mut waits, &bare(BLOCK), &mut begun, 1).await;
        let stopping = actix_rt::spawn(server.stop());
        assert_eq!(idle.recv().await, None, "the drain has begun");
        System::current().stop();
        let report = within(stopping).await.unwrap().unwrap();
        let stats = handle.stats();
        assert_eq!((stats.admitted, stats.ended, endings(&stats)), (2, 2, 2));
        report
    });
    assert_eq!((report.connections, report.cut, report.messages_unfinished), (2, 1, 1));
    let words = cut.all().pop().unwrap();
    assert!(words.contains("its worker was stopped before it had ended"), "{words}");
}
