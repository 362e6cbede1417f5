use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{pause, sleep};

use super::marks::Marks;
use super::*;
use crate::conn::{CloseReason, Silence};
use crate::server::Server;
use crate::settings::Settings;
use crate::testing::{TestConnection, settings, within};
use crate::transport::Plain;

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
const PONG: [u8; 2] = [0x8a, 0];

#[actix::test]
async fn a_ping_is_a_sign_of_life() {
    pause();
    let (mut peer, stream) = duplex(1024);
    let settings = Settings { idle_deadline_ms: 1000, ..settings() };
    let codec = FrameCodec::new(settings.wire_format, settings.max_packet_size);
    let below = Box::new(Plain::counted(stream));
    let wire = Wire::new(below, Marks::default(), codec.largest_frame());
    let stream = WebSocketStream::from_raw_socket(wire, Role::Server, Some(config(&codec))).await;
    let (tell, mut ends) = unbounded_channel();
    let server = Server::new(settings).on_conn_stop(move |_, why| tell.send(why.clone()).unwrap());
    let messages = Box::new(Messages::new(stream, codec));
    let _connection = TestConnection::over(server, messages).await;
    for _ in 0..5 {
        sleep(Duration::from_millis(700)).await;
        peer.write_all(&PING).await.unwrap();
        let mut pong = [0; 2];
        within(peer.read_exact(&mut pong)).await.unwrap();
        assert_eq!(pong, PONG);
    }
    assert!(ends.try_recv().is_err());
    assert_eq!(within(ends.recv()).await, Some(CloseReason::Silent(Silence::Idle)));
}
