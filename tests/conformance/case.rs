//! A case: what is sent, and what must come back.

use futures_util::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use zinxide::framing::Delimited;
use zinxide::testing::{TestServer, settings};
use zinxide::{Inbound, Server, Settings};

use super::wire::{self, Got};

/// What ends a message. No payload of a case contains it before its end.
const END: &[u8] = b"\xff\x00";

/// What a server takes as a message at most.
pub(crate) const MAX_MESSAGE: u32 = 1024 * 1024;

/// All in one write.
const WHOLE: usize = usize::MAX;

/// A payload of this length, at least that of [`END`], which is a frame.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..=250).cycle().take(len - END.len()).collect();
    payload.extend(END);
    payload
}

/// A text with the end of a frame, so that it is a frame.
pub(crate) fn ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), END].concat()
}

enum Step {
    Send { bytes: Vec<u8>, chop: usize },
    Await(Got),
}

/// How a case ends.
enum Finish {
    /// The client closes with 1000, has the same code back, and the server closes the socket.
    Ours,
    /// The server closes with one of these codes, and after the client's reply the socket.
    Theirs(Vec<u16>),
    /// As that, but the client has sent its close frame, a good or a bad one, and sends no other.
    Replied(Vec<Option<u16>>),
}

#[must_use]
pub(crate) struct Case {
    id: String,
    steps: Vec<Step>,
    finish: Finish,
    may_echo: bool,
}

impl Case {
    /// The case with this number in Autobahn's list.
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), steps: Vec::new(), finish: Finish::Ours, may_echo: false }
    }

    pub(crate) fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.chopped(WHOLE, bytes)
    }

    /// Sends these bytes, so many at a time.
    pub(crate) fn chopped(mut self, chop: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Send { bytes: bytes.as_ref().to_vec(), chop });
        self
    }

    /// Goes on when this has come, which must be the next.
    pub(crate) fn awaits(mut self, got: Got) -> Self {
        self.steps.push(Step::Await(got));
        self
    }

    /// As a case that the server ends, by one of these codes.
    pub(crate) fn closes(mut self, codes: &[u16]) -> Self {
        self.finish = Finish::Theirs(codes.to_vec());
        self
    }

    /// Takes what the server echoes before the end, if it does.
    pub(crate) fn may_echo(mut self) -> Self {
        self.may_echo = true;
        self
    }

    /// As a case in which a close frame was sent, good or bad, to which one of these is the reply.
    pub(crate) fn replies(mut self, codes: &[Option<u16>]) -> Self {
        self.finish = Finish::Replied(codes.to_vec());
        self
    }

    /// Plays it. The error says what came instead of what should have.
    async fn run(self, port: u16) -> Result<(), String> {
        let Self { id, steps, finish, may_echo } = self;
        let (mut writer, mut reader) = wire::connect(port).await;
        let (come, mut next) = unbounded_channel();
        // A server that is not read would stop reading, too.
        actix::spawn(async move {
            loop {
                let got = reader.next().await;
                if may_echo && matches!(got, Got::Message(_)) {
                    continue;
                }
                let is_last = matches!(got, Got::End | Got::Wrong(_));
                if come.send(got).is_err() || is_last {
                    return;
                }
            }
        });
        for step in steps {
            match step {
                Step::Send { bytes, chop } => writer.write(&bytes, chop).await,
                Step::Await(wanted) => expect(&id, &mut next, &[wanted]).await?,
            }
        }
        match finish {
            Finish::Ours => {
                writer.write(&wire::close(1000, b""), WHOLE).await;
                expect(&id, &mut next, &[Got::Close(Some(1000))]).await?;
            }
            Finish::Theirs(codes) => {
                let codes: Vec<_> = codes.into_iter().map(|code| Got::Close(Some(code))).collect();
                expect(&id, &mut next, &codes).await?;
                writer.write(&wire::close(1000, b""), WHOLE).await;
            }
            Finish::Replied(codes) => {
                let codes: Vec<_> = codes.into_iter().map(Got::Close).collect();
                expect(&id, &mut next, &codes).await?;
            }
        }
        expect(&id, &mut next, &[Got::End]).await
    }
}

/// Takes what comes next, which must be one of these.
async fn expect(id: &str, next: &mut UnboundedReceiver<Got>, any: &[Got]) -> Result<(), String> {
    match next.recv().await {
        Some(got) if any.contains(&got) => Ok(()),
        got => Err(format!("{id}: {got:.100?} in place of {any:.100?}")),
    }
}

/// Plays these cases, all at once: each is a connection.
pub(crate) async fn play(cases: impl IntoIterator<Item = Case>) {
    let settings = Settings {
        listen: vec!["ws://127.0.0.1:0".parse().unwrap()],
        max_packet_size: MAX_MESSAGE,
        max_msg_chan_bytes: 2 * MAX_MESSAGE as usize,
        ..settings()
    };
    let server =
        Server::new(settings).framing(Delimited::by(END)).route_fn(0, async |msg: Inbound| msg);
    let server = TestServer::start(server).await;
    let port = server.addr().port();
    let outcomes = join_all(cases.into_iter().map(|case| case.run(port))).await;
    assert!(!outcomes.is_empty());
    let wrong: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await.unwrap();
}
