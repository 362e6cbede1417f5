//! Clients that mean harm, or know no better. Each dials, does its worst, and waits for the server
//! to end it; all is bounded in count and in time.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::codec::Encoder;
use zinxide::{Frame, FrameCodec, WireFormat};

use crate::noise::Noise;
use crate::server::{BY_ACTOR, BY_FUNCTION, MAX_PACKET};

/// A dial that takes longer is given up. TCP tries again after one and after three seconds.
const UNREACHABLE: Duration = Duration::from_secs(8);

/// Much longer than the server's patience, so that nothing but the server's fault outlasts it.
const KEPT: Duration = Duration::from_secs(60);

/// How long the dials that come all at once stay.
const STAY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Asks and asks, and reads no answer.
    Deaf,
    /// Sends a frame a byte at a time.
    Dripping,
    /// Asks and resets the connection.
    Resetting,
    /// Sends random bytes.
    Babbling,
    /// Announces more than is allowed, by one byte or by as much as a header can.
    Boasting,
    /// Closes its side within a frame.
    Breaking,
    /// Connects and says nothing.
    Mute,
    /// Comes with all others of its kind at once, stays and goes.
    Crowding,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Deaf,
        Self::Dripping,
        Self::Resetting,
        Self::Babbling,
        Self::Boasting,
        Self::Breaking,
        Self::Mute,
        Self::Crowding,
    ];

    /// How many there are in a round.
    fn count(self, dials: u32) -> u32 {
        match self {
            Self::Deaf => 50,
            Self::Dripping | Self::Mute => 100,
            Self::Babbling | Self::Boasting | Self::Breaking => 200,
            Self::Resetting => 1000,
            Self::Crowding => dials,
        }
    }
}

/// What a round of attack consists of.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    pub(crate) addr: SocketAddr,
    pub(crate) dials: u32,
    /// From the first dial to the last; all at once come in the middle of it.
    pub(crate) spread: Duration,
    /// From one byte to the next of those that drip.
    pub(crate) drip: Duration,
}

/// How hostile clients of a kind fared.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fared {
    pub(crate) connected: u64,
    pub(crate) unreachable: u64,
    /// The server did not end them, as it should.
    pub(crate) kept: u64,
}

pub(crate) type Tally = BTreeMap<Kind, Fared>;

enum End {
    /// Its own doing, or the server's.
    Over,
    Unreachable,
    Kept,
}

impl Attack {
    /// All kinds at once. Returns when the last one is gone.
    pub(crate) fn run(self, round: u32) -> io::Result<Tally> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let begun = Instant::now();
            let mut clients = JoinSet::new();
            for kind in Kind::ALL {
                let count = kind.count(self.dials);
                for n in 0..count {
                    let at = begun + self.spread.mul_f64(share(kind, n, count));
                    let noise = Noise::new(u64::from(round) << 32 | u64::from(n));
                    clients.spawn(async move {
                        sleep_until(at).await;
                        (kind, self.client(kind, noise).await)
                    });
                }
            }
            let mut tally = Tally::new();
            while let Some(client) = clients.join_next().await {
                let (kind, end) = client?;
                let fared = tally.entry(kind).or_default();
                match end {
                    End::Over => fared.connected += 1,
                    End::Unreachable => fared.unreachable += 1,
                    End::Kept => {
                        fared.connected += 1;
                        fared.kept += 1;
                    }
                }
            }
            Ok(tally)
        })
    }

    async fn client(self, kind: Kind, noise: Noise) -> End {
        let Ok(Ok(stream)) = timeout(UNREACHABLE, dial(kind, self.addr)).await else {
            return End::Unreachable;
        };
        // An error is the server's way to end it.
        match timeout(KEPT, self.misbehave(kind, stream, noise)).await {
            Ok(_) => End::Over,
            Err(_) => End::Kept,
        }
    }

    async fn misbehave(
        self,
        kind: Kind,
        mut stream: TcpStream,
        mut noise: Noise,
    ) -> io::Result<()> {
        match kind {
            Kind::Deaf => {
                let questions = questions(16);
                loop {
                    stream.write_all(&questions).await?;
                }
            }
            Kind::Dripping => {
                for byte in questions(1) {
                    stream.write_all(&[byte]).await?;
                    if timeout(self.drip, until_closed(&mut stream)).await.is_ok() {
                        break;
                    }
                }
                return Ok(());
            }
            Kind::Resetting => {
                stream.write_all(&questions(2)).await?;
                return stream.set_zero_linger();
            }
            Kind::Babbling => {
                let len = 1 + noise.up_to(2000);
                stream.write_all(&noise.bytes(len)).await?;
            }
            Kind::Boasting => {
                let len = if noise.up_to(1) == 0 { u32::MAX } else { MAX_PACKET + 1 };
                stream.write_all(&header(len)).await?;
            }
            Kind::Breaking => {
                stream.write_all(&header(100)).await?;
                stream.write_all(&noise.bytes(50)).await?;
                stream.shutdown().await?;
            }
            Kind::Mute => {}
            Kind::Crowding => {
                // Who closes with something unread resets the connection: half of them do.
                if noise.up_to(1) == 0 {
                    let _ = timeout(STAY, until_closed(&mut stream)).await;
                } else {
                    sleep(STAY).await;
                }
                return Ok(());
            }
        }
        until_closed(&mut stream).await;
        Ok(())
    }
}

/// When the `n`th of `count` comes, from 0 to 1.
fn share(kind: Kind, n: u32, count: u32) -> f64 {
    if kind == Kind::Crowding { 0.5 } else { f64::from(n) / f64::from(count) }
}

async fn dial(kind: Kind, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if kind == Kind::Deaf {
        // Else the system would read megabytes for it.
        socket.set_recv_buffer_size(4096)?;
    }
    socket.connect(addr).await
}

/// Reads, and forgets what it reads, until the server is gone.
async fn until_closed(stream: &mut TcpStream) {
    let mut sink = [0; 512];
    while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
}

/// Proper messages, as large as may be, to be echoed.
fn questions(count: u32) -> BytesMut {
    let mut codec = FrameCodec::new(WireFormat::LtvLe, MAX_PACKET);
    let mut bytes = BytesMut::new();
    for n in 0..count {
        let id = if n % 2 == 0 { BY_FUNCTION } else { BY_ACTOR };
        // The payload fits a header, which is all that can fail.
        let _ = codec.encode(Frame::new(id, vec![b'?'; MAX_PACKET as usize]), &mut bytes);
    }
    bytes
}

/// A message of this length is to come, in the server's wire format.
fn header(len: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&len.to_le_bytes());
    header[4..].copy_from_slice(&BY_FUNCTION.to_le_bytes());
    header
}
