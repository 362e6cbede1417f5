//! The client of the cases: it writes what WebSocket forbids, too, and reads what comes back frame by frame.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use zinxide::testing::within;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The bit of a message's last frame, beside the opcode.
pub(crate) const FIN: u8 = 0x80;

/// The bit of a frame that has a mask, beside the length.
pub(crate) const MASK_BIT: u8 = 0x80;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a server sends, one message or control frame at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Message(Vec<u8>),
    Pong(Vec<u8>),
    /// The code, if there was one.
    Close(Option<u16>),
    /// The server has closed its side of the socket.
    End,
    /// What no server may send, or the error of the socket.
    Wrong(String),
}

/// A masked frame whose first byte is this: opcode, [`FIN`] and the reserved bits.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ ..=125 => frame.push(MASK_BIT | len as u8),
        len @ ..=0xffff => {
            frame.push(MASK_BIT | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(MASK_BIT | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A close frame with a code and a reason.
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// An open WebSocket at a server's port, as its two directions: neither waits for the other.
pub(crate) async fn connect(port: u16) -> (Writer, Reader) {
    let mut socket = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
    socket.set_nodelay(true).unwrap();
    // The extension is offered as browsers do, and has to be declined: all cases are without it.
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(socket.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    let (reader, writer) = socket.into_split();
    (Writer(writer), Reader(reader))
}

pub(crate) struct Writer(OwnedWriteHalf);

impl Writer {
    /// Writes so many bytes at a time. A server that has closed gets no more of them, which is no error:
    /// what it said before that is what counts.
    pub(crate) async fn write(&mut self, bytes: &[u8], chop: usize) {
        for piece in bytes.chunks(chop) {
            if within(self.0.write_all(piece)).await.is_err() {
                return;
            }
            // The server runs on other threads, and may read this piece alone.
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) struct Reader(OwnedReadHalf);

impl Reader {
    /// The next that is whole.
    pub(crate) async fn next(&mut self) -> Got {
        within(self.read()).await.unwrap_or_else(|error| Got::Wrong(error.to_string()))
    }

    async fn read(&mut self) -> std::io::Result<Got> {
        let mut message = None;
        loop {
            let first = match self.0.read_u8().await {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(match message {
                        None => Got::End,
                        Some(_) => Got::Wrong("the end inside a message".into()),
                    });
                }
                first => first?,
            };
            let len = match self.0.read_u8().await? {
                126 => u64::from(self.0.read_u16().await?),
                127 => self.0.read_u64().await?,
                len @ ..126 => u64::from(len),
                _ => return Ok(Got::Wrong("a masked frame".into())),
            };
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            self.0.read_exact(&mut payload).await?;
            match (first & !FIN, &mut message, first & FIN != 0) {
                (BINARY, None, true) => return Ok(Got::Message(payload)),
                (BINARY, None, false) => message = Some(payload),
                (CONTINUATION, Some(message), last) => {
                    message.append(&mut payload);
                    if last {
                        return Ok(Got::Message(std::mem::take(message)));
                    }
                }
                (PONG, None, true) => return Ok(Got::Pong(payload)),
                (CLOSE, None, true) => {
                    return Ok(match &payload[..] {
                        [] => Got::Close(None),
                        [high, low, reason @ ..] if std::str::from_utf8(reason).is_ok() => {
                            Got::Close(Some(u16::from_be_bytes([*high, *low])))
                        }
                        _ => Got::Wrong(format!("the close frame {payload:?}")),
                    });
                }
                (_, begun, _) => {
                    let place = if begun.is_some() { "inside a message" } else { "here" };
                    return Ok(Got::Wrong(format!("a frame that begins with {first:#x} {place}")));
                }
            }
        }
    }
}
