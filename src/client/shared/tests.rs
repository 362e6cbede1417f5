use super::*;
use crate::settings::Settings;
use crate::testing::{accepted, conn};

/// A client whose connections have room for two frames.
fn shared() -> (Shared, Settings) {
    let settings = Settings { max_msg_chan_len: 2, ..Settings::default() };
    let limits = Arc::new(settings.limits(Arc::default()));
    let bound = Unsent { frames: 8, bytes: 1000 };
    let refuse = WhenQueueFull::Refuse;
    (Shared::new(Endpoint::tcp("host", 1), limits, bound, refuse, None), settings)
}

fn send(shared: &Shared, payload: &'static str) {
    let item = Item::buffered(&shared.limits, Frame::new(1, payload)).unwrap();
    shared.send_buffered(item).unwrap();
}

fn payloads(conn: &Conn) -> Vec<Vec<u8>> {
    accepted(conn).into_iter().map(|frame| frame.payload.to_vec()).collect()
}

#[actix::test]
async fn nothing_overtakes_the_queue_on_its_way_to_a_connection() {
    let (shared, settings) = shared();
    for payload in ["1", "2", "3"] {
        send(&shared, payload);
    }
    let conn = conn(1, &settings);
    shared.up(&conn);
    send(&shared, "4");
    assert!(matches!(shared.flush_one(&conn), Flushed::One));
    send(&shared, "5");
    assert!(matches!(shared.flush_one(&conn), Flushed::One));
    assert!(matches!(shared.flush_one(&conn), Flushed::Full(9)));
    assert_eq!(shared.queued(), Unsent { frames: 3, bytes: 27 });
    assert_eq!(payloads(&conn), [b"1", b"2"]);
    assert!(matches!(shared.flush_one(&conn), Flushed::One));
    assert!(matches!(shared.flush_one(&conn), Flushed::One));
    assert_eq!(payloads(&conn), [b"3", b"4"]);
    assert!(matches!(shared.flush_one(&conn), Flushed::One));
    assert!(matches!(shared.flush_one(&conn), Flushed::All));
    send(&shared, "6");
    assert_eq!(payloads(&conn), [b"5", b"6"]);
}

#[actix::test]
async fn a_connection_that_ends_is_spared_although_it_takes_frames() {
    let (shared, settings) = shared();
    let conn = conn(1, &settings);
    shared.up(&conn);
    conn.close(CloseReason::PeerClosed);
    assert!(!conn.is_closed());
    send(&shared, "later");
    assert!(shared.conn().is_none() && accepted(&conn).is_empty());
    assert!(matches!(shared.flush_one(&conn), Flushed::Closed));
    assert_eq!(shared.queued().frames, 1);
}

#[actix::test]
async fn the_end_answers_what_is_queued_and_accepts_nothing_more() {
    let (shared, _) = shared();
    send(&shared, "left");
    shared.end();
    shared.end();
    assert_eq!(shared.take_left(), [Frame::new(1, "left")]);
    let item = Item::buffered(&shared.limits, Frame::new(1, "late")).unwrap();
    assert_eq!(shared.send_buffered(item), Err(SendError::Closed(Frame::new(1, "late"))));
}
