//! Two sides that both send more than the other takes.

use bytes::Bytes;
use tokio::sync::mpsc::unbounded_channel;
use zinxide::testing::within;
use zinxide::{Inbound, Settings, Watermark};

use super::support::{Peer, client};

#[actix::test]
async fn a_client_reads_on_however_full_its_outbox_is_of_what_it_sent() {
    let small_frames = Settings { max_msg_chan_len: 64, ..Settings::default() };
    let few_bytes = Settings { max_msg_chan_bytes: 64 * 1024, ..Settings::default() };
    for (settings, size) in [(small_frames, 1), (few_bytes, 16 * 1024)] {
        let peer = Peer::listen();
        let (tell, mut heard) = unbounded_channel();
        let (mark, mut full) = unbounded_channel();
        let client = client(peer.endpoint())
            .settings(settings)
            .on_watermark(move |_, at| mark.send(at).unwrap())
            .route_fn(1, async move |mut msg: Inbound| tell.send(msg.take_payload()).unwrap());
        let client = within(client.connect()).await.unwrap();
        let mut end = peer.accept().await;
        let sender = client.clone();
        let sending =
            actix::spawn(async move { while sender.send(2, vec![0; size]).await.is_ok() {} });
        assert_eq!(within(full.recv()).await, Some(Watermark::High));
        // What the peer does not take before it was heard, it never takes.
        for n in 0..200_u8 {
            end.send(1, vec![n]).await;
            assert_eq!(within(heard.recv()).await, Some(Bytes::from(vec![n])));
        }
        drop(end);
        within(client.close()).await;
        within(sending).await.unwrap();
    }
}
