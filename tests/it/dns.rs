//! Names of upstreams: asked of `penstock.dns_servers`, once per TTL, every address tried in turn.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Gateway, Origin, Response, Setup, api, eventually};

/// A name server that gives the same answer to every question and counts those for addresses.
struct NameServer {
    port: u16,
    asked: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl NameServer {
    fn answering(addresses: &'static [Ipv4Addr], ttl_s: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a socket takes a timeout");
        let port = socket.local_addr().expect("it is bound").port();
        let (asked, stopped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stop) = (Arc::clone(&asked), Arc::clone(&stopped));
        thread::spawn(move || {
            let mut question = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut question) else {
                    continue;
                };
                if let Some(answer) = answer(&question[..len], addresses, ttl_s) {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Self {
            port,
            asked,
            stopped,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// A gateway that asks this server for the name of its upstream, for each request anew if it
    /// asked for each connection.
    fn gateway(&self, origin: u16) -> Gateway {
        Setup::new()
            .conf(json!({
                "proxy_close_connections": true,
                "penstock": {"dns_servers": [format!("127.0.0.1:{}", self.port)]},
            }))
            .api(api("w", &format!("http://origin.test:{origin}")))
            .start()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// The answer to a question for `A` records (RFC 1035 §4.1); `None` for any other.
fn answer(question: &[u8], addresses: &[Ipv4Addr], ttl_s: u32) -> Option<Vec<u8>> {
    let name_len = question.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let asked = question.get(12..12 + name_len + 4)?;
    let is_address = asked.ends_with(&[0, 1, 0, 1]);
    let count = u8::try_from(addresses.len()).expect("a few");
    let mut message = question.get(..2)?.to_vec();
    message.extend([
        0x81,
        0x80,
        0,
        1,
        0,
        if is_address { count } else { 0 },
        0,
        0,
        0,
        0,
    ]);
    message.extend_from_slice(asked);
    if is_address {
        for address in addresses {
            message.extend([0xc0, 12, 0, 1, 0, 1]);
            message.extend(ttl_s.to_be_bytes());
            message.extend([0, 4]);
            message.extend(address.octets());
        }
    }
    is_address.then_some(message)
}

fn origin() -> Origin {
    Origin::answering(|_| Response::new(200, "found").to_bytes())
}

#[test]
fn many_connections_cost_one_question_per_ttl() {
    let (server, origin) = (NameServer::answering(&[Ipv4Addr::LOCALHOST], 1), origin());
    let started = Instant::now();
    let gateway = server.gateway(origin.port());
    let mut requests = 0;
    eventually("three questions", || {
        assert_eq!(gateway.get("/w/").status, 200);
        requests += 1;
        (server.asked() >= 3).then_some(())
    });
    // Between three questions lie two times to live.
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert!(requests > 6, "{requests} requests in two seconds");
}

#[test]
fn an_address_that_refuses_gives_way_to_the_next() {
    const ADDRESSES: &[Ipv4Addr] = &[Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST];
    let (server, origin) = (NameServer::answering(ADDRESSES, 3600), origin());
    let gateway = server.gateway(origin.port());
    for _ in 0..8 {
        assert_eq!(gateway.get("/w/").text(), "found");
    }
    assert_eq!(server.asked(), 1);
}
