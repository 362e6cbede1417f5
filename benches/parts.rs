//! The parts of a message's way, one by one. Read the figures against each other and against
//! another commit's on the same machine, never as absolute times: see `docs/performance.md`.

#![allow(missing_docs, clippy::unwrap_used)] // the macros make items without documentation

use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Context, Handler, Message, System};
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::codec::Encoder;
use zinxide::conn_manager::{Add, Broadcast, Get, Remove};
use zinxide::testing::{TestConnection, accepted, conn};
use zinxide::{
    ConnId, ConnManager, Frame, FrameCodec, Inbound, Route, Server, Settings, WireFormat,
};

const SIZES: [usize; 4] = [16, 256, 4096, 65_536];

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    for size in SIZES {
        let mut codec = FrameCodec::new(WireFormat::LtvLe, u32::MAX);
        let frame = Frame::new(1, vec![0; size]);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("encode", size), |b| {
            let mut bytes = BytesMut::with_capacity(size + 8);
            b.iter(|| {
                bytes.clear();
                codec.encode(black_box(frame.clone()), &mut bytes).unwrap();
            });
        });
        let mut encoded = BytesMut::new();
        codec.encode(frame.clone(), &mut encoded).unwrap();
        group.bench_function(BenchmarkId::new("decode", size), |b| {
            let mut bytes = BytesMut::with_capacity(size + 8);
            b.iter(|| {
                bytes.reserve(size + 8);
                bytes.extend_from_slice(&encoded);
                black_box(codec.next_frame(&mut bytes).unwrap())
            });
        });
    }
    group.finish();
}

/// What a message through an actix mailbox on the same arbiter costs: what handler actors are
/// spared.
fn mailbox(c: &mut Criterion) {
    struct Sink;
    impl Actor for Sink {
        type Context = Context<Self>;
    }
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Post(#[allow(dead_code)] Bytes);
    impl Handler<Post> for Sink {
        type Result = ();
        fn handle(&mut self, post: Post, _: &mut Context<Self>) {
            black_box(post);
        }
    }
    let system = System::new();
    let sink = system.block_on(async { Sink.start() });
    let mut group = c.benchmark_group("mailbox");
    group.bench_function("do_send, in batches of 64", |b| {
        b.iter_custom(|n| {
            timed(&system, async {
                for _ in 0..n.div_ceil(64) {
                    for _ in 0..63 {
                        sink.do_send(Post(Bytes::from_static(b"x")));
                    }
                    sink.send(Post(Bytes::from_static(b"x"))).await.unwrap();
                }
            })
        });
    });
    group.bench_function("ask", |b| {
        b.iter_custom(|n| {
            timed(&system, async {
                for _ in 0..n {
                    sink.send(Post(Bytes::from_static(b"x"))).await.unwrap();
                }
            })
        });
    });
    group.finish();
}

/// A peer without a socket: it has sent batches of messages, and throws the answers away.
struct Batches {
    batch: Bytes,
    left: u64,
}

impl AsyncRead for Batches {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left > 0 {
            self.left -= 1;
            buffer.put_slice(&self.batch);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Batches {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(black_box(bytes).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// All that a message goes through between two system calls, there and back.
fn connection(c: &mut Criterion) {
    struct Echo;
    impl Actor for Echo {
        type Context = Context<Self>;
    }
    impl Handler<Inbound> for Echo {
        type Result = ();
        fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
            msg.echo();
        }
    }
    let by_function = || Server::new(roomy()).route_fn(1, async |msg: Inbound| msg);
    let by_actor = || Server::new(roomy()).route(1, || Echo);
    let system = System::new();
    let mut group = c.benchmark_group("connection");
    for depth in [1, 64] {
        let mut batch = BytesMut::new();
        for _ in 0..depth {
            let mut codec = FrameCodec::new(WireFormat::LtvLe, u32::MAX);
            codec.encode(Frame::new(1, &[0; 64][..]), &mut batch).unwrap();
        }
        let batch = batch.freeze();
        let mut run = |name: &str, server: &dyn Fn() -> Server| {
            group.bench_function(BenchmarkId::new(name, depth), |b| {
                b.iter_custom(|n| {
                    let peer = Batches { batch: batch.clone(), left: n.div_ceil(depth) };
                    let end = Arc::new(Notify::new());
                    let ended = Arc::clone(&end);
                    timed(&system, async {
                        let server = server().on_conn_stop(move |_, _| ended.notify_one());
                        let _connection = TestConnection::start(server, peer).await;
                        end.notified().await;
                    })
                });
            });
        };
        run("echo by a function, in batches of", &by_function);
        run("echo by an actor, in batches of", &by_actor);
    }
    group.finish();
}

/// Many routes: to bind with them, and to change one of them.
fn routes(c: &mut Criterion) {
    let function = || Route::function(async |msg: Inbound| msg);
    let server = |routes| {
        let settings = Settings { tcp_port: 0, worker_pool_size: 2, ..roomy() };
        let server = Server::new(settings).without_signals();
        (0..routes).fold(server, |server, id| server.add_route(id, function()))
    };
    let system = System::new();
    let mut group = c.benchmark_group("routes");
    for routes in [10, 10_000] {
        group.bench_function(BenchmarkId::new("bind", routes), |b| {
            b.iter_custom(|n| {
                let mut taken = Duration::ZERO;
                for _ in 0..n {
                    let server = server(routes);
                    taken +=
                        timed(&system, async { drop(black_box(server.bind().await.unwrap())) });
                }
                taken
            });
        });
        let bound = system.block_on(server(routes).bind()).unwrap();
        let handle = bound.handle();
        group.bench_function(BenchmarkId::new("register and unregister among", routes), |b| {
            b.iter_custom(|n| {
                timed(&system, async {
                    for _ in 0..n {
                        handle.register(routes, function()).await.unwrap();
                        handle.unregister(routes).await.unwrap();
                    }
                })
            });
        });
    }
    group.finish();
}

fn outbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox");
    for size in SIZES {
        let conn = conn(1, &roomy());
        let payload = Bytes::from(vec![0; size]);
        group.bench_function(BenchmarkId::new("send_buffered", size), |b| {
            b.iter_custom(|n| {
                let mut taken = Duration::ZERO;
                for _ in 0..n.div_ceil(64) {
                    let begun = Instant::now();
                    for _ in 0..64 {
                        conn.send_buffered(1, payload.clone()).unwrap();
                    }
                    taken += begun.elapsed();
                    // What the writer would do.
                    black_box(accepted(&conn));
                }
                taken
            });
        });
    }
    group.finish();
}

fn broadcast(c: &mut Criterion) {
    let system = System::new();
    let mut group = c.benchmark_group("broadcast");
    for receivers in [10, 100, 1000, 10_000] {
        let conns: Vec<_> = (1..=receivers).map(|id| conn(id, &roomy())).collect();
        let manager = system.block_on(async {
            let manager = ConnManager::new(&roomy()).start();
            for conn in &conns {
                manager.send(Add(conn.clone())).await.unwrap().unwrap();
            }
            manager
        });
        group.throughput(Throughput::Elements(receivers));
        group.bench_function(BenchmarkId::new("to outboxes", receivers), |b| {
            b.iter_custom(|n| {
                let mut taken = Duration::ZERO;
                for _ in 0..n {
                    let frame = Frame::new(2, &[0; 64][..]);
                    taken += timed(&system, async {
                        manager.send(Broadcast::new(frame)).await.unwrap().unwrap();
                    });
                    conns.iter().for_each(|conn| drop(accepted(conn)));
                }
                taken
            });
        });
    }
    group.finish();
}

fn conn_manager(c: &mut Criterion) {
    let system = System::new();
    let mut group = c.benchmark_group("conn_manager");
    for entries in [100, 100_000] {
        let (manager, table) = system.block_on(filled(entries));
        group.bench_function(BenchmarkId::new("Get, asked", entries), |b| {
            b.iter_custom(|n| {
                timed(&system, async {
                    for i in 0..n {
                        manager.send(Get(i % entries + 1)).await.unwrap().unwrap();
                    }
                })
            });
        });
        group.bench_function(BenchmarkId::new("get, from the table", entries), |b| {
            let mut ids = (1..=entries).cycle();
            b.iter(|| black_box(table.get(ids.next().unwrap())));
        });
        let extra = conn(entries + 1, &roomy());
        group.bench_function(BenchmarkId::new("Add and Remove", entries), |b| {
            b.iter_custom(|n| {
                let mut id: ConnId = extra.id();
                timed(&system, async {
                    for _ in 0..n {
                        id += 1;
                        manager.send(Add(conn(id, &roomy()))).await.unwrap().unwrap();
                        manager.send(Remove(id)).await.unwrap().unwrap();
                    }
                })
            });
        });
    }
    group.finish();
}

async fn filled(entries: ConnId) -> (Addr<ConnManager>, zinxide::Connections) {
    let manager = ConnManager::new(&roomy());
    let table = manager.connections();
    let manager = manager.start();
    for id in 1..=entries {
        manager.send(Add(conn(id, &roomy()))).await.unwrap().unwrap();
    }
    (manager, table)
}

/// Settings that refuse nothing.
fn roomy() -> Settings {
    Settings {
        max_conn: usize::MAX,
        max_msg_chan_len: usize::MAX,
        max_msg_chan_bytes: usize::MAX,
        ..Settings::default()
    }
}

fn timed(system: &actix::SystemRunner, work: impl Future<Output = ()>) -> Duration {
    system.block_on(async {
        let begun = Instant::now();
        work.await;
        begun.elapsed()
    })
}

criterion_group! {
    name = parts;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = codec, mailbox, connection, routes, outbox, broadcast, conn_manager
}
criterion_main!(parts);
