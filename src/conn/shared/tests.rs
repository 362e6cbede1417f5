use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::conn::Conn;
use crate::endpoint::{ListenAddr, Scheme};
use crate::frame::Frame;
use crate::settings::Settings;

/// Eight messages in flight, sixteen frames or 16 KB in an outbox.
fn settings() -> Settings {
    Settings {
        max_worker_task_len: 8,
        max_msg_chan_len: 16,
        max_msg_chan_bytes: 16_000,
        ..Settings::default()
    }
}

/// A connection to a server, without an actor.
fn dialled() -> Conn {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let at = Arc::new(ListenAddr { scheme: Scheme::Tcp, addr, path: String::new() });
    Conn::dialled(1, addr, at, Arc::new(settings().limits(Arc::default())))
}

/// How many messages may be in flight beside ever more answers of `len` bytes that are not taken.
fn limits(conn: &Conn, len: usize) -> Vec<u32> {
    let limit = |_| {
        let limit = conn.shared().in_flight_limit(0);
        assert!(conn.shared().push_reply(Frame::new(1, vec![0; len])).is_ok());
        limit
    };
    (0..20).map(limit).collect()
}

#[test]
fn a_server_hands_out_as_many_messages_as_its_outbox_has_room_to_answer() {
    let conn = crate::testing::conn(1, &settings());
    let expected = [8, 8, 8, 8, 8, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0];
    assert_eq!(limits(&conn, 1), expected);
    let conn = crate::testing::conn(1, &settings());
    assert_eq!(limits(&conn, 3992), [[8, 8, 8].as_slice(), &[0; 17]].concat());
}

#[test]
fn a_client_has_the_room_for_answers_beside_what_it_has_sent() {
    for (len, expected) in [
        (1, vec![8, 8, 8, 8, 8, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]),
        (992, [[8; 9].as_slice(), &[0; 11]].concat()),
    ] {
        let conn = dialled();
        while conn.send_buffered(2, vec![0; len]).is_ok() {}
        assert_eq!(limits(&conn, len), expected);
    }
}
