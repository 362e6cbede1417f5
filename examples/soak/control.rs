//! The control: a server of plain tokio that nobody attacks.
//!
//! What happens to its clients at the same time, the machine does to everybody: other programs
//! that want the processor, or the attack itself, which has two cores to share with its victim.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};

/// Serves on a thread of its own, for as long as the process lives.
pub(crate) fn start() -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, _)) = listener.accept().await {
                // As the server does it.
                let _ = stream.set_nodelay(true);
                tokio::spawn(echo(stream));
            }
        });
    });
    Ok(addr)
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    // Who has gone misses nothing.
    let _ = copy(&mut read, &mut write).await;
}
