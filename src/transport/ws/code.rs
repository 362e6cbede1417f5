//! Close codes and close reasons: each way.

use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::codec::FrameError;
use crate::conn::{CloseReason, beginning};

/// What a close frame has room for beside the code.
const MAX_REASON: usize = 123;

/// What a peer is told.
pub(super) fn close_frame(why: &CloseReason) -> CloseFrame {
    let words = match why {
        CloseReason::App { text, .. } => text.to_string(),
        why => why.to_string(),
    };
    CloseFrame { code: code_of(why), reason: beginning(&words, MAX_REASON).into() }
}

fn code_of(why: &CloseReason) -> CloseCode {
    use CloseReason as R;
    match why {
        R::App { code, .. } => CloseCode::from(*code),
        R::PeerClosed
        | R::PeerClosedWith { .. }
        | R::PeerClosedFinally
        | R::Stopped
        | R::Removed
        | R::Cleared
        | R::OutOfStep(_) => CloseCode::Normal,
        R::Shutdown => CloseCode::Away,
        R::InboundFull => CloseCode::Again,
        R::Protocol(FrameError::Text) => CloseCode::Unsupported,
        R::Protocol(FrameError::TooLarge { .. } | FrameError::MessageTooLong { .. }) => {
            CloseCode::Size
        }
        R::Protocol(FrameError::WebSocket(_)) => CloseCode::Protocol,
        R::Protocol(_) => CloseCode::Invalid,
        R::NoRoute(_) | R::OverRate(_) | R::SlowConsumer(_) | R::Silent(_) | R::WriteIdle => {
            CloseCode::Policy
        }
        R::HandlerPanicked(_)
        | R::HookPanicked
        | R::HandlerGone(_)
        | R::HandlerLate(_)
        | R::Handshake(_)
        | R::Io(_)
        | R::WorkerGone => CloseCode::Error,
    }
}

/// What a peer's close frame means.
pub(super) fn reason_of(frame: Option<&CloseFrame>) -> CloseReason {
    match frame {
        None => CloseReason::PeerClosed,
        Some(CloseFrame { code, reason }) => match code {
            CloseCode::Normal | CloseCode::Away | CloseCode::Status => CloseReason::PeerClosed,
            &code => {
                CloseReason::PeerClosedWith { code: code.into(), text: reason.as_str().into() }
            }
        },
    }
}

/// Why reading failed.
pub(super) fn reason_of_error(error: Error) -> CloseReason {
    CloseReason::Protocol(match error {
        Error::ConnectionClosed | Error::AlreadyClosed => return CloseReason::PeerClosed,
        Error::Io(error) => return CloseReason::of(error),
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            FrameError::MessageTooLong { max: max_size }
        }
        // In a text, or in the reason of a close frame.
        Error::Utf8(_) => FrameError::Malformed("it is not UTF-8"),
        Error::Protocol(error) => FrameError::WebSocket(match error {
            ProtocolError::UnmaskedFrameFromClient => "a frame is not masked",
            ProtocolError::MaskedFrameFromServer => "a frame is masked",
            ProtocolError::NonZeroReservedBits => "reserved bits are not zero",
            ProtocolError::FragmentedControlFrame => "a control frame is fragmented",
            ProtocolError::ControlFrameTooBig => "a control frame is too large",
            ProtocolError::UnknownControlFrameType(_)
            | ProtocolError::UnknownDataFrameType(_)
            | ProtocolError::InvalidOpcode(_) => "an opcode is unknown",
            ProtocolError::UnexpectedContinueFrame => "there is nothing to continue",
            ProtocolError::ExpectedFragment(_) => "a message begins inside another",
            ProtocolError::InvalidCloseSequence => "a close frame is malformed",
            _ => "it is not followed",
        }),
        _ => FrameError::WebSocket("it is not followed"),
    })
}
