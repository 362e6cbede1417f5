//! What a connection needs of the byte stream under it.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a peer. TCP is one; anything tokio can read and write is.
///
/// A connection's end shuts the writing side down, then drops the stream, which must close it.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Transport for T {}
