//! An actor-model TCP server library on actix.

mod codec;
mod conn;
pub mod conn_manager;
mod connection;
mod event;
mod frame;
mod inbound;
pub mod router;
mod server;
mod settings;
pub mod testing;
mod transport;
mod turn;

pub use codec::{CodecError, FrameCodec, FrameError, WireFormat};
pub use conn::{CloseReason, Conn, ConnId, SendError, Slow};
pub use conn_manager::{BroadcastReport, ConnManager, Connections};
pub use connection::{Connection, Stop};
pub use event::Stats;
pub use frame::{Frame, MsgId};
pub use inbound::Inbound;
pub use router::{IntoReply, Route, RouteError, Router};
pub use server::{BoundServer, Server, ServerError, ServerHandle};
pub use settings::{Settings, SettingsError, Unrouted};
