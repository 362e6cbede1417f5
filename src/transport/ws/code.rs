//! Close codes (RFC 6455, 7.4) and close reasons: each way.

use crate::codec::FrameError;
use crate::conn::{CloseReason, beginning};

/// What a close frame has room for beside the code.
const MAX_REASON: usize = 123;

const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_PAYLOAD: u16 = 1007;
const POLICY_VIOLATION: u16 = 1008;
const MESSAGE_TOO_BIG: u16 = 1009;
const INTERNAL_ERROR: u16 = 1011;
const TRY_AGAIN_LATER: u16 = 1013;

/// What a close frame says of `why`.
pub(super) fn close_payload(why: &CloseReason) -> Vec<u8> {
    let words = match why {
        CloseReason::App { text, .. } => text.to_string(),
        why => why.to_string(),
    };
    let mut payload = code_of(why).to_be_bytes().to_vec();
    payload.extend_from_slice(beginning(&words, MAX_REASON).as_bytes());
    payload
}

fn code_of(why: &CloseReason) -> u16 {
    use CloseReason as R;
    match why {
        R::App { code, .. } => *code,
        R::PeerClosed
        | R::PeerClosedWith { .. }
        | R::PeerClosedFinally
        | R::Stopped
        | R::Removed
        | R::Cleared
        | R::OutOfStep(_) => NORMAL,
        R::Shutdown => GOING_AWAY,
        R::InboundFull => TRY_AGAIN_LATER,
        R::Protocol(FrameError::Text) => UNSUPPORTED_DATA,
        R::Protocol(FrameError::TooLarge { .. } | FrameError::MessageTooLong { .. }) => {
            MESSAGE_TOO_BIG
        }
        R::Protocol(FrameError::WebSocket(_)) => PROTOCOL_ERROR,
        R::Protocol(_) => INVALID_PAYLOAD,
        R::NoRoute(_) | R::OverRate(_) | R::SlowConsumer(_) | R::Silent(_) | R::WriteIdle => {
            POLICY_VIOLATION
        }
        R::HandlerPanicked(_)
        | R::HookPanicked
        | R::HandlerGone(_)
        | R::HandlerLate(_)
        | R::Handshake(_)
        | R::Io(_)
        | R::WorkerGone => INTERNAL_ERROR,
    }
}

/// What a peer's close frame means.
pub(super) fn reason_of(payload: &[u8]) -> Result<CloseReason, FrameError> {
    let [high, low, text @ ..] = payload else {
        return match payload {
            [] => Ok(CloseReason::PeerClosed),
            _ => Err(FrameError::WebSocket("a close frame has half of a code")),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    if !may_be_sent(code) {
        return Err(FrameError::WebSocket("a close code is reserved"));
    }
    let text = std::str::from_utf8(text);
    let text = text.map_err(|_| FrameError::Malformed("a close reason is not UTF-8"))?;
    Ok(match code {
        NORMAL | GOING_AWAY => CloseReason::PeerClosed,
        code => CloseReason::PeerClosedWith { code, text: text.into() },
    })
}

/// Whether this code may stand in a close frame: it is registered, or an application's.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
