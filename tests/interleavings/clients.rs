//! The peers: real sockets, and what was said and heard on them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::codec::Encoder;
use zinxide::testing::within;
use zinxide::{Frame, FrameCodec, FrameError, WireFormat};

use crate::actions::{MAX_PACKET, Say};
use crate::journal::{Journal, payload};

/// What a client has heard.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) frames: RefCell<Vec<Frame>>,
    /// What came after the last whole frame.
    pub(crate) rest: RefCell<BytesMut>,
    /// It has seen the end, or has brought it about by a reset.
    pub(crate) ended: Cell<bool>,
    /// The end it saw was a reset: the server's system had no use for what the client still said.
    pub(crate) by_reset: Cell<bool>,
}

impl Heard {
    pub(crate) async fn the_end(&self, journal: &Journal) {
        journal.until("a client sees the end of its connection", || self.ended.get()).await;
    }
}

/// A message, and what its handler is to do.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) what: Say,
    pub(crate) frame: Frame,
}

pub(crate) struct Client {
    pub(crate) addr: SocketAddr,
    pub(crate) heard: Rc<Heard>,
    pub(crate) said: Vec<Said>,
    /// How the client broke the protocol: so many messages before, and what the server must call it.
    pub(crate) broke: Option<(usize, FrameError)>,
    pub(crate) fin: bool,
    pub(crate) reset: bool,
    /// How the application may have ended the connection.
    pub(crate) stopped: bool,
    /// By a goodbye, whose last frame is due to the client.
    pub(crate) goodbye: bool,
    pub(crate) removed: bool,
    pub(crate) cleared: bool,
    codec: FrameCodec,
    /// Its drop closes the client's side.
    mouth: Option<UnboundedSender<Utterance>>,
}

enum Utterance {
    Bytes(Bytes),
    Reset,
}

impl Client {
    /// `None` if the listener is closed meanwhile. An address is not used twice in a case, because
    /// it tells which connection is whose.
    pub(crate) async fn dial(
        server: SocketAddr,
        wire: WireFormat,
        used: &RefCell<HashSet<SocketAddr>>,
        journal: &Arc<Journal>,
    ) -> Option<Self> {
        let (socket, addr) = loop {
            let socket = TcpSocket::new_v4().unwrap();
            // Thousands of cases leave more ports waiting than there are.
            socket.set_reuseaddr(true).unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let addr = socket.local_addr().unwrap();
            if used.borrow_mut().insert(addr) {
                break (socket, addr);
            }
        };
        let stream = within(socket.connect(server)).await.ok()?;
        let (mouth, utterances) = unbounded_channel();
        let heard = Rc::new(Heard::default());
        let codec = FrameCodec::new(wire, u32::MAX);
        let (journal, ears) = (Arc::clone(journal), Rc::clone(&heard));
        let spoken = codec.clone();
        actix_rt::spawn(async move {
            talk(stream, utterances, spoken, &ears, &journal).await;
            ears.ended.set(true);
            journal.look();
        });
        Some(Self {
            addr,
            heard,
            said: Vec::new(),
            broke: None,
            fin: false,
            reset: false,
            stopped: false,
            goodbye: false,
            removed: false,
            cleared: false,
            codec,
            mouth: Some(mouth),
        })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.heard.ended.get()
    }

    /// Whether it may still do something to the connection.
    pub(crate) fn is_there(&self) -> bool {
        self.mouth.is_some() && !self.has_ended()
    }

    /// Whether it may still say something: what comes behind half a frame would complete it.
    pub(crate) fn can_talk(&self) -> bool {
        self.is_there() && !matches!(self.broke, Some((_, FrameError::Truncated { .. })))
    }

    pub(crate) fn say(&mut self, what: Say, size: usize) {
        let frame = Frame::new(what.id(), payload(&[self.said.len() as u32], size));
        self.said.push(Said { what, frame: frame.clone() });
        self.utter(self.encoded(frame));
    }

    pub(crate) fn fin(&mut self) {
        self.fin = true;
        self.mouth = None;
    }

    pub(crate) fn reset(&mut self) {
        self.reset = true;
        if let Some(mouth) = self.mouth.take() {
            // The connection may have ended meanwhile.
            let _ = mouth.send(Utterance::Reset);
        }
    }

    /// Says so many bytes of a frame, and then nothing more.
    pub(crate) fn say_half(&mut self, bytes: usize, fin: bool) {
        let frame = self.encoded(Frame::new(Say::Function.id(), payload(&[0], 20)));
        let have = bytes.min(frame.len() - 1);
        self.utter(frame.slice(..have));
        self.break_off(FrameError::Truncated { have });
        self.fin |= fin;
        if fin {
            self.mouth = None;
        }
    }

    /// Announces more than is allowed. The server may take what comes after it for the payload.
    pub(crate) fn announce(&mut self, excess: u32) {
        let (id, announced) = (Say::Function.id(), MAX_PACKET + 1 + excess);
        let header = match self.codec.wire().unwrap() {
            WireFormat::LtvLe => [announced.to_le_bytes(), id.to_le_bytes()],
            _ => [id.to_be_bytes(), announced.to_be_bytes()],
        };
        self.utter(Bytes::copy_from_slice(&header.concat()));
        self.break_off(FrameError::TooLarge { id, announced, max: MAX_PACKET });
    }

    /// How many messages of those it said are answered when they are handled.
    pub(crate) fn questions(&self) -> usize {
        let valid = self.broke.map_or(self.said.len(), |(before, _)| before);
        self.said[..valid].iter().filter(|said| said.what.is_answered()).count()
    }

    /// How many answers it has heard.
    pub(crate) fn answers(&self) -> usize {
        let questions: Vec<_> = self.said.iter().map(|said| said.frame.id).collect();
        self.heard.frames.borrow().iter().filter(|frame| questions.contains(&frame.id)).count()
    }

    fn break_off(&mut self, how: FrameError) {
        self.broke.get_or_insert((self.said.len(), how));
    }

    fn utter(&self, bytes: Bytes) {
        if let Some(mouth) = &self.mouth {
            let _ = mouth.send(Utterance::Bytes(bytes));
        }
    }

    fn encoded(&self, frame: Frame) -> Bytes {
        let mut bytes = BytesMut::new();
        let mut codec = self.codec.clone();
        codec.encode(frame, &mut bytes).unwrap();
        bytes.freeze()
    }
}

/// Says what is to be said and listens, until the server closes its side. Then the client closes
/// its own, as clients do: the server waits for that.
async fn talk(
    mut stream: TcpStream,
    mut utterances: UnboundedReceiver<Utterance>,
    codec: FrameCodec,
    heard: &Heard,
    journal: &Journal,
) {
    let (mut ear, mut mouth) = stream.split();
    let says = async {
        while let Some(utterance) = utterances.recv().await {
            let said = match utterance {
                Utterance::Bytes(bytes) => mouth.write_all(&bytes).await,
                Utterance::Reset => {
                    mouth.as_ref().set_zero_linger().unwrap();
                    return;
                }
            };
            // Of a reset, whoever comes first is told, and the other meets an ordinary end.
            if said.is_err() {
                heard.by_reset.set(true);
                break;
            }
        }
        if mouth.shutdown().await.is_err() {
            heard.by_reset.set(true);
        }
        std::future::pending::<()>().await;
    };
    let hears = async {
        let mut bytes = BytesMut::new();
        loop {
            match ear.read_buf(&mut bytes).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => {
                    heard.by_reset.set(true);
                    break;
                }
            }
            while let Some(frame) = codec.next_frame(&mut bytes).unwrap() {
                heard.frames.borrow_mut().push(frame);
            }
            *heard.rest.borrow_mut() = bytes.clone();
            journal.look();
        }
    };
    tokio::select! {
        () = says => {}
        () = hears => {}
    }
}
