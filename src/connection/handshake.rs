//! What an admitted connection does before it can have an actor.

use std::future::poll_fn;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Connection, Local};
use crate::conn::{CloseReason, Conn, HandshakeError};
use crate::conn_manager::Registration;
use crate::transport::Stack;

/// Shakes hands on this thread, and starts the connection's actor when that is done: within the
/// deadline, and unless somebody asks for the connection's end meanwhile.
pub(crate) fn shake_hands(
    local: Rc<Local>,
    conn: Conn,
    socket: TcpStream,
    stack: Stack,
    registration: Registration,
) {
    let living = local.lives.begin();
    actix_rt::spawn(async move {
        let deadline = conn.shared().limits.handshake_deadline;
        let shaken = tokio::select! {
            biased;
            () = poll_fn(|cx| conn.shared().poll_ending(cx)) => None,
            shaken = timeout(deadline, stack.accept(socket, &conn)) => Some(shaken),
        };
        let transport = match shaken {
            Some(Ok(Ok(transport))) => Some(transport),
            Some(Ok(Err(why))) => fail(&conn, why),
            Some(Err(_)) => fail(&conn, HandshakeError::Late),
            None => None,
        };
        Connection::start_on(local, conn, transport, registration);
        drop(living);
    });
}

fn fail<T>(conn: &Conn, why: HandshakeError) -> Option<T> {
    conn.close(CloseReason::Handshake(why));
    None
}
