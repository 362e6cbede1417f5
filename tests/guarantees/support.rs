//! What these tests share beside the public kit.

use std::pin::Pin;
use std::sync::{Mutex, Once};
use std::task::Poll;

use actix::{Actor, Context, Handler, ResponseFuture};
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::codec::Encoder;
use zinxide::testing::within;
use zinxide::{CloseReason, ConnId, Frame, Inbound, MsgId, Server, Settings};

use crate::transport::{TestClient, codec, settings};

/// The kit's settings, changed.
pub(crate) fn tuned(tune: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings();
    tune(&mut settings);
    settings
}

/// The kit's settings with one worker: whatever one connection does, the others share its thread.
pub(crate) fn one_worker() -> Settings {
    tuned(|s| s.worker_pool_size = 1)
}

/// What a server did for its application, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Started(ConnId),
    Handled(ConnId, MsgId),
    Stopped(ConnId, CloseReason),
}

/// Where hooks and handlers write what they did.
#[derive(Clone, Debug)]
pub(crate) struct Journal(UnboundedSender<Event>);

/// What they wrote.
#[derive(Debug)]
pub(crate) struct Events(UnboundedReceiver<Event>);

pub(crate) fn journal() -> (Journal, Events) {
    let (tx, rx) = unbounded_channel();
    (Journal(tx), Events(rx))
}

impl Journal {
    pub(crate) fn write(&self, event: Event) {
        // A test that has seen enough listens no more.
        let _ = self.0.send(event);
    }

    pub(crate) fn handled(&self, message: &Inbound) {
        self.write(Event::Handled(message.conn().id(), message.id()));
    }

    /// `server` with hooks that write here.
    pub(crate) fn hooks(&self, server: Server) -> Server {
        let (start, stop) = (self.clone(), self.clone());
        server
            .on_conn_start(move |conn| start.write(Event::Started(conn.id())))
            .on_conn_stop(move |conn, why| stop.write(Event::Stopped(conn.id(), why.clone())))
    }
}

impl Events {
    pub(crate) async fn next(&mut self) -> Event {
        within(self.0.recv()).await.expect("nobody writes any more")
    }

    /// What was written already and not read yet.
    pub(crate) fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }

    /// The id of the connection whose start must be the next event.
    pub(crate) async fn started(&mut self) -> ConnId {
        match self.next().await {
            Event::Started(id) => id,
            other => panic!("a start was due, not {other:?}"),
        }
    }

    /// The next end of a connection, whatever happens before it.
    pub(crate) async fn stopped(&mut self) -> (ConnId, CloseReason) {
        loop {
            if let Event::Stopped(id, why) = self.next().await {
                return (id, why);
            }
        }
    }
}

/// A handler actor made of a function.
pub(crate) struct Does<F>(pub(crate) F);

impl<F: Unpin + 'static> Actor for Does<F> {
    type Context = Context<Self>;
}

impl<F: FnMut(Inbound) + Unpin + 'static> Handler<Inbound> for Does<F> {
    type Result = ();

    fn handle(&mut self, message: Inbound, _: &mut Context<Self>) {
        (self.0)(message);
    }
}

/// A handler actor made of a function whose future the actor drives.
pub(crate) struct Drives<F>(pub(crate) F);

impl<F: Unpin + 'static> Actor for Drives<F> {
    type Context = Context<Self>;
}

impl<F, Fut> Handler<Inbound> for Drives<F>
where
    F: FnMut(Inbound) -> Fut + Unpin + 'static,
    Fut: Future<Output = ()> + 'static,
{
    type Result = ResponseFuture<()>;

    fn handle(&mut self, message: Inbound, _: &mut Context<Self>) -> ResponseFuture<()> {
        Box::pin((self.0)(message))
    }
}

/// Panics; answers nothing, so that a function that ends with it is a route function all the same.
pub(crate) fn panic_on_purpose() {
    panic!("on purpose");
}

/// A handler actor that answers with what it got.
pub(crate) fn echo_actor() -> Does<impl FnMut(Inbound) + Unpin + 'static> {
    Does(|message: Inbound| {
        let (id, payload) = (message.id(), message.payload().to_vec());
        message.reply(id, payload);
    })
}

/// A route function that answers with what it got.
pub(crate) async fn echo(message: Inbound) -> Frame {
    Frame::new(message.id(), message.payload().to_vec())
}

/// Frames as they stand on the wire.
pub(crate) fn encoded(frames: impl IntoIterator<Item = Frame>) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        codec().encode(frame, &mut bytes).unwrap();
    }
    bytes
}

/// All whole frames up to the end of the stream, which may come inside a frame.
pub(crate) async fn whole_frames(client: &mut TestClient) -> Vec<Frame> {
    let mut bytes = BytesMut::new();
    while let Ok(1..) = within(client.stream().read_buf(&mut bytes)).await {}
    std::iter::from_fn(|| codec().next_frame(&mut bytes).unwrap()).collect()
}

/// Sends and gets back a message by an echo route of this id.
pub(crate) async fn round_trip(client: &mut TestClient, id: MsgId) {
    client.send(id, "there and back").await;
    assert_eq!(client.recv().await, Some(Frame::new(id, "there and back")));
}

/// When this is done, the only worker of `client`'s server has seen all that was sent to it before
/// by anybody: whatever was there before the first trip is taken up before the second one ends.
pub(crate) async fn settle(client: &mut TestClient, echo: MsgId) {
    for _ in 0..3 {
        round_trip(client, echo).await;
    }
}

/// One look at a future, which may be dropped afterwards.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// So that thousands of sockets are not refused by a shell's soft limit.
pub(crate) fn raise_descriptor_limit() {
    rlimit::increase_nofile_limit(20_000).unwrap();
}

/// Log lines of level warn and above from now on, of all tests of this process.
pub(crate) struct LogLines(UnboundedReceiver<String>);

static LISTENERS: Mutex<Vec<UnboundedSender<String>>> = Mutex::new(Vec::new());

pub(crate) fn log_lines() -> LogLines {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    let (tx, rx) = unbounded_channel();
    LISTENERS.lock().unwrap().push(tx);
    LogLines(rx)
}

impl LogLines {
    /// The next line that contains `what`, which must tell the test's own lines from others'.
    pub(crate) async fn with(&mut self, what: &str) -> String {
        let find = async {
            loop {
                let line = self.0.recv().await.expect("the logger is never dropped");
                if line.contains(what) {
                    return line;
                }
            }
        };
        within(find).await
    }
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        LISTENERS.lock().unwrap().retain(|listener| listener.send(line.clone()).is_ok());
    }

    fn flush(&self) {}
}
