//! What an admitted connection does before it can have an actor.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Connection, Local};
use crate::conn::{CloseReason, Conn, HandshakeError};
use crate::conn_manager::Registration;
use crate::transport::{Stack, part};

/// Shakes hands on this thread, and starts the connection's actor when that is done: within the
/// deadline, which runs since the connection `began`, and unless somebody asks for its end
/// meanwhile.
pub(crate) fn shake_hands(
    local: Rc<Local>,
    conn: Conn,
    socket: TcpStream,
    stack: Stack,
    began: Instant,
    registration: Registration,
) {
    let living = local.lives.begin();
    actix_rt::spawn(async move {
        let limits = &conn.shared().limits;
        let (deadline, lingering) = (limits.handshake_deadline, Arc::clone(&limits.lingering));
        let shaken = tokio::select! {
            biased;
            () = poll_fn(|cx| conn.shared().poll_ending(cx)) => None,
            shaken = timeout_at(began + deadline, stack.accept(socket, &conn)) => Some(shaken),
        };
        let (transport, failed) = match shaken {
            Some(Ok(Ok(transport))) => (Some(transport), None),
            Some(Ok(Err(failed))) => (None, Some(failed)),
            Some(Err(_)) => (None, Some(HandshakeError::Late.into())),
            None => (None, None),
        };
        let mut told = None;
        if let Some(failed) = failed {
            conn.close(CloseReason::Handshake(failed.why));
            told = failed.told;
        }
        Connection::start_on(local, conn, transport, registration);
        drop(living);
        // The place is another's by now.
        if let Some(told) = told {
            part(told, lingering).await;
        }
    });
}
