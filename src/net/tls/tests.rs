//! Handshakes and bytes over loopback, against ourselves and against rustls' blocking streams.

use std::{io::Read, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier,
};

use super::*;
use crate::net::{
    io::tests::{on_both_drivers, pair},
    listener::{Acceptor, ListenerSet, Place},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/conformance/fixtures")
        .join(name)
}

fn identity(name: &str) -> Identity {
    Identity::from_files(
        &fixture(&format!("{name}.crt")),
        &fixture(&format!("{name}.key")),
    )
    .expect("a fixture")
}

fn trusting() -> TlsOptions {
    TlsOptions {
        ca_files: vec![fixture("ca.crt")],
        ..TlsOptions::default()
    }
}

fn server(change: impl Fn(&mut ServerOptions)) -> ServerTls {
    let mut options = ServerOptions {
        certificates: vec![NamedIdentity {
            domain_name: String::new(),
            identity: identity("upstream"),
        }],
        ..ServerOptions::default()
    };
    change(&mut options);
    ServerTls::new(&options).expect("a configuration")
}

/// Both ends of a fresh connection after their handshakes.
async fn handshakes(
    client: &UpstreamTls,
    host: &str,
    server: &ServerTls,
) -> (io::Result<Tls>, io::Result<Tls>) {
    let (near, far) = pair().await;
    let accepting = monoio::spawn({
        let server = server.clone();
        async move { server.accept(far).await }
    });
    let connected = client.connect(near, host).await;
    (connected, accepting.await)
}

#[track_caller]
fn check(
    client: impl Fn(&mut TlsOptions),
    server_change: impl Fn(&mut ServerOptions),
    host: &str,
    expected: Result<u16, &str>,
) {
    let mut options = trusting();
    client(&mut options);
    let client = UpstreamTls::new(&options).expect("a configuration");
    let server = server(server_change);
    let place = std::panic::Location::caller();
    on_both_drivers(|| async {
        let (connected, _) = handshakes(&client, host, &server).await;
        match (connected, expected) {
            (Ok(tls), Ok(version)) => assert_eq!(tls.version(), version, "{place}"),
            (Err(e), Err(text)) => assert!(format!("{e:?}").contains(text), "{place}: {e:?}"),
            (Ok(_), Err(text)) => panic!("{place}: connected, expected {text}"),
            (Err(e), Ok(_)) => panic!("{place}: {e:?}"),
        }
    });
}

#[test]
fn certificates_are_verified_unless_told_otherwise() {
    let same = |_: &mut ServerOptions| {};
    check(|_| {}, same, "localhost", Ok(772));
    check(|_| {}, same, "127.0.0.1", Ok(772));
    check(|_| {}, same, "example.com", Err("NotValidForName"));
    check(
        |o| o.ca_files.clear(),
        same,
        "localhost",
        Err("UnknownIssuer"),
    );
    check(
        |o| {
            o.ca_files.clear();
            o.insecure_skip_verify = true;
        },
        same,
        "example.com",
        Ok(772),
    );
}

#[test]
fn the_range_of_versions_holds_on_both_sides() {
    check(|o| o.max_version = 771, |_| {}, "localhost", Ok(771));
    check(|o| o.min_version = 772, |_| {}, "localhost", Ok(772));
    check(|_| {}, |o| o.max_version = 771, "localhost", Ok(771));
    check(
        |o| o.max_version = 771,
        |o| o.min_version = 772,
        "localhost",
        Err("ProtocolVersion"),
    );
    check(
        |o| o.min_version = 772,
        |o| o.max_version = 771,
        "localhost",
        Err("ProtocolVersion"),
    );
    check(
        |o| {
            o.max_version = 771;
            o.ciphers = vec!["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384".into()];
        },
        |_| {},
        "localhost",
        Ok(771),
    );
    check(
        |o| {
            o.max_version = 771;
            o.ciphers = vec!["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384".into()];
        },
        |o| o.ciphers = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()],
        "localhost",
        Err("HandshakeFailure"),
    );
}

#[test]
fn the_protocol_and_the_certificate_follow_what_the_client_asks_for() {
    let client = UpstreamTls::new(&TlsOptions {
        insecure_skip_verify: true,
        alpn: vec![b"h2".to_vec()],
        ..TlsOptions::default()
    })
    .expect("a configuration");
    let server = server(|o| {
        o.enable_http2 = true;
        o.certificates.push(NamedIdentity {
            domain_name: "*.apis.example".into(),
            identity: identity("client2"),
        });
    });
    let leaf = |name| identity(name).chain[0].to_vec();
    let expected = [
        ("client2", leaf("client2")),
        ("One.Apis.Example", leaf("client2")),
        ("two.one.apis.example", leaf("upstream")),
        ("nobody.example", leaf("upstream")),
        ("127.0.0.1", leaf("upstream")),
    ];
    on_both_drivers(|| async {
        for (host, certificate) in &expected {
            let (near, far) = handshakes(&client, host, &server).await;
            let (near, far) = (near.expect("connects"), far.expect("accepts"));
            assert_eq!(near.peer_certificates()[0], *certificate, "{host}");
            assert_eq!(near.alpn().as_deref(), Some(&b"h2"[..]));
            let name = (*host != "127.0.0.1").then(|| host.to_ascii_lowercase());
            assert_eq!(far.server_name(), name);
        }
    });
}

#[test]
fn an_unusable_configuration_is_refused_in_one_line() {
    let options = TlsOptions {
        ca_files: vec![fixture("no-such-file.crt")],
        ..TlsOptions::default()
    };
    let error = UpstreamTls::new(&options).err().expect("refused");
    assert!(error.contains("no-such-file.crt"), "{error}");
    let error = Identity::from_files(&fixture("server.crt"), &fixture("rsa.pub"))
        .expect_err("no key in it");
    assert!(
        error.contains("rsa.pub") && error.contains("no private key"),
        "{error}"
    );
    let foreign = Identity::from_files(&fixture("server.crt"), &fixture("client1.key"));
    let error = ServerTls::new(&ServerOptions {
        certificates: vec![NamedIdentity {
            domain_name: "a.example".into(),
            identity: foreign.expect("two fixtures"),
        }],
        ..ServerOptions::default()
    })
    .err()
    .expect("refused");
    assert!(
        error.contains("a.example") && error.contains("does not belong"),
        "{error}"
    );
    assert!(ServerTls::new(&ServerOptions::default()).is_err());
    assert!(Identity::from_files(&fixture("client1.pem"), &fixture("client1.pem")).is_ok());
}

/// A blocking server of another make in a thread, that answers each connection with `serve`.
fn foreign_server(
    config: ServerConfig,
    serve: impl Fn(StreamOwned<ServerConnection, std::net::TcpStream>) + Send + 'static,
) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let config = Arc::new(config);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let session = ServerConnection::new(config.clone()).expect("a session");
            serve(StreamOwned::new(session, stream));
        }
    });
    addr
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn foreign_config(ask_for_certificate: bool) -> ServerConfig {
    let identity = identity("upstream");
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let mut roots = RootCertStore::empty();
    roots
        .add(
            super::identity::certificates_of_file(&fixture("ca.crt")).expect("a fixture")[0]
                .clone(),
        )
        .expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    match ask_for_certificate {
        true => builder.with_client_cert_verifier(verifier.build().expect("a verifier")),
        false => builder.with_no_client_auth(),
    }
    .with_single_cert(identity.chain, identity.key)
    .expect("a certificate")
}

async fn read_to_end(stream: &impl Transport) -> (io::Result<()>, Vec<u8>) {
    let mut all = Vec::new();
    loop {
        all.reserve(8 * 1024);
        let result;
        (result, all) = stream.read(all).await;
        match result {
            Ok(0) => return (Ok(()), all),
            Ok(_) => {}
            Err(e) => return (Err(e), all),
        }
    }
}

#[test]
fn a_client_certificate_is_presented_to_an_upstream_that_requires_one() {
    let addr = foreign_server(foreign_config(true), |mut stream| {
        let mut asked = [0; 4];
        if stream.read_exact(&mut asked).is_ok() {
            let shown = stream.conn.peer_certificates().map_or(0, <[_]>::len);
            let _ = write!(stream, "{shown} certificates");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    let ask = async |identity: Option<Identity>| {
        let options = TlsOptions {
            identity,
            ..trusting()
        };
        let client = UpstreamTls::new(&options).expect("a configuration");
        let tcp = Tcp::connect(addr, Duration::from_secs(10))
            .await
            .expect("connects");
        let tls = client.connect(tcp, "localhost").await?;
        tls.write_all(b"who?".to_vec(), 0).await.0?;
        let (result, answer) = read_to_end(&tls).await;
        result.map(|()| String::from_utf8(answer).expect("text"))
    };
    on_both_drivers(|| async {
        let answer = ask(Some(identity("client1"))).await.expect("served");
        assert_eq!(answer, "1 certificates");
        let error = ask(None).await.expect_err("refused");
        assert!(
            format!("{error:?}").contains("CertificateRequired"),
            "{error:?}"
        );
    });
}

#[test]
fn an_end_without_close_notify_is_told_from_a_clean_one() {
    for says_so in [true, false] {
        let addr = foreign_server(foreign_config(false), move |mut stream| {
            let _ = stream.read_exact(&mut [0; 1]);
            let _ = stream.write_all(b"until the end");
            if says_so {
                stream.conn.send_close_notify();
            }
            let _ = stream.flush();
        });
        on_both_drivers(|| async {
            let client = UpstreamTls::new(&trusting()).expect("a configuration");
            let tcp = Tcp::connect(addr, Duration::from_secs(10))
                .await
                .expect("connects");
            let tls = client.connect(tcp, "localhost").await.expect("a handshake");
            tls.write_all(b"?".to_vec(), 0).await.0.expect("writes");
            let (result, all) = read_to_end(&tls).await;
            assert_eq!(all, b"until the end");
            let kind = result.err().map(|e| e.kind());
            assert_eq!(kind, (!says_so).then_some(io::ErrorKind::UnexpectedEof));
        });
    }
}

#[test]
fn ending_the_writing_side_is_a_clean_end_and_ending_both_is_a_cut() {
    let client = UpstreamTls::new(&trusting()).expect("a configuration");
    let server = server(|_| {});
    on_both_drivers(|| async {
        for (half, clean) in [(Half::Write, true), (Half::Both, false)] {
            let (near, far) = handshakes(&client, "localhost", &server).await;
            let (near, far) = (near.expect("connects"), far.expect("accepts"));
            far.write_all(b"bytes".to_vec(), 0).await.0.expect("writes");
            far.shutdown(half);
            let (result, all) = read_to_end(&near).await;
            assert_eq!(
                (result.is_ok(), all.as_slice()),
                (clean, &b"bytes"[..]),
                "{half:?}"
            );
            if clean {
                near.write_all(b"still open".to_vec(), 0)
                    .await
                    .0
                    .expect("writes");
                near.shutdown(Half::Write);
                let (result, all) = read_to_end(&far).await;
                assert_eq!((result.is_ok(), all.as_slice()), (true, &b"still open"[..]));
            }
        }
    });
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i * 7 + i / 251 + seed) % 256) as u8)
        .collect()
}

#[test]
fn a_mebibyte_goes_both_ways_at_once() {
    const SIZE: usize = 1 << 20;
    let server = server(|_| {});
    for version in [771, 772] {
        let client = UpstreamTls::new(&TlsOptions {
            min_version: version,
            max_version: version,
            ..trusting()
        })
        .expect("a configuration");
        on_both_drivers(|| async {
            let (near, far) = handshakes(&client, "localhost", &server).await;
            let (near, far) = (near.expect("connects"), far.expect("accepts"));
            let writing: Vec<_> = [near.clone(), far.clone()]
                .into_iter()
                .enumerate()
                .map(|(seed, tls)| {
                    monoio::spawn(async move {
                        let mut all = pattern(seed, SIZE);
                        // Batches of every kind of size, the first bytes of the buffer left out.
                        let mut size = 1;
                        while !all.is_empty() {
                            let rest = all.split_off(size.min(all.len()));
                            let mut buf = b"skip".to_vec();
                            buf.append(&mut all);
                            tls.write_all(buf, 4).await.0.expect("writes");
                            all = rest;
                            size = size * 3 % 300_007 + 1;
                        }
                        tls.shutdown(Half::Write);
                    })
                })
                .collect();
            let reading = monoio::spawn(async move { read_to_end(&far).await });
            let (result, all) = read_to_end(&near).await;
            result.expect("a clean end");
            assert!(all == pattern(1, SIZE), "what the server sent arrives");
            let (result, all) = reading.await;
            result.expect("a clean end");
            assert!(all == pattern(0, SIZE), "what the client sent arrives");
            for task in writing {
                task.await;
            }
        });
    }
}

#[test]
fn a_new_key_is_agreed_on_while_bytes_flow() {
    let addr = foreign_server(foreign_config(false), |mut stream| {
        let mut got = [0; 1000];
        stream
            .conn
            .complete_io(&mut stream.sock)
            .expect("a handshake");
        for round in 0..20 {
            // Asks the client for a new key each time, which it must send before its next record.
            stream.conn.refresh_traffic_keys().expect("established");
            stream.read_exact(&mut got).expect("reads");
            assert!(got.iter().all(|b| *b == round));
            stream.write_all(&got).expect("writes");
            stream.flush().expect("writes");
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    on_both_drivers(|| async {
        let client = UpstreamTls::new(&trusting()).expect("a configuration");
        let tcp = Tcp::connect(addr, Duration::from_secs(10))
            .await
            .expect("connects");
        let tls = client.connect(tcp, "localhost").await.expect("a handshake");
        for round in 0..20 {
            tls.write_all(vec![round; 1000], 0).await.0.expect("writes");
            let mut buf = Vec::with_capacity(1000);
            while buf.len() < 1000 {
                let result;
                (result, buf) = tls.read(buf).await;
                result.expect("reads");
            }
            assert!(buf.iter().all(|b| *b == round));
        }
        assert_eq!(
            tls.read(Vec::with_capacity(9))
                .await
                .0
                .expect("a clean end"),
            0
        );
    });
}

#[test]
fn an_idle_connection_is_not_readable_because_of_a_session_ticket() {
    let client = UpstreamTls::new(&trusting()).expect("a configuration");
    let server = server(|_| {});
    on_both_drivers(|| async {
        let (near, far) = handshakes(&client, "localhost", &server).await;
        let (near, far) = (near.expect("connects"), far.expect("accepts"));
        let waiting = monoio::spawn({
            let near = near.clone();
            async move {
                near.readable().await.expect("readable");
                std::time::Instant::now()
            }
        });
        // The ticket came with the handshake; long after it nothing else has come.
        monoio::time::sleep(Duration::from_millis(30)).await;
        let before = std::time::Instant::now();
        far.write_all(b"now".to_vec(), 0).await.0.expect("writes");
        assert!(waiting.await >= before, "only application bytes count");
        let (result, buf) = near.read(Vec::with_capacity(64)).await;
        assert_eq!((result.expect("reads"), buf.as_slice()), (3, &b"now"[..]));
    });
}

#[test]
fn garbage_and_plain_http_are_refused_and_answered() {
    let server = server(|_| {});
    on_both_drivers(|| async {
        for (sent, answer) in [
            (
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                &b"HTTP/1.0 400 Bad Request"[..],
            ),
            // handshake_failure or decode_error: an alert record begins with 21.
            (&[22, 3, 1, 0, 4, 1, 0, 0, 0][..], &[21][..]),
            (&[0; 40][..], &[21][..]),
        ] {
            let (near, far) = pair().await;
            near.write_all(sent.to_vec(), 0).await.0.expect("writes");
            near.shutdown(Half::Write);
            assert!(server.accept(far).await.is_err());
            let (_, all) = read_to_end(&near).await;
            assert!(all.starts_with(answer), "{sent:?}: {all:?}");
        }
    });
}

#[test]
fn a_canceled_read_loses_no_record() {
    let client = UpstreamTls::new(&trusting()).expect("a configuration");
    let server = server(|_| {});
    on_both_drivers(|| async {
        let (near, far) = handshakes(&client, "localhost", &server).await;
        let (near, far) = (near.expect("connects"), far.expect("accepts"));
        let cancel = Rc::new(Cancel::default());
        let read = monoio::spawn({
            let (near, cancel) = (near.clone(), cancel.clone());
            async move {
                near.read_until_canceled(Vec::with_capacity(64), &cancel)
                    .await
            }
        });
        monoio::time::sleep(Duration::from_millis(5)).await;
        cancel.cancel();
        let (result, _) = read.await;
        assert!(crate::net::io::is_canceled(&result.expect_err("ended")));
        far.write_all(b"later".to_vec(), 0).await.0.expect("writes");
        let (result, buf) = near.read(Vec::with_capacity(64)).await;
        assert_eq!((result.expect("reads"), buf.as_slice()), (5, &b"later"[..]));
    });
}

#[test]
fn a_tls_listener_serves_accepted_connections() {
    let client = UpstreamTls::new(&trusting()).expect("a configuration");
    let server = server(|_| {});
    on_both_drivers(|| async {
        let mut set = ListenerSet::default();
        let addr = set
            .open("traffic", &Place::new("127.0.0.1", 0), 1)
            .expect("a port");
        let socket = set
            .for_shards("traffic", 1)
            .expect("copies")
            .remove(0)
            .remove(0);
        let acceptor = Acceptor::new(socket).expect("an acceptor");
        let tcp = Tcp::connect(addr, Duration::from_secs(10))
            .await
            .expect("connects");
        let connecting = monoio::spawn({
            let client = client.clone();
            async move { client.connect(tcp, "localhost").await }
        });
        let (tcp, _) = acceptor
            .accept(async |time| monoio::time::sleep(time).await)
            .await
            .expect("accepts")
            .expect("one");
        let far = server.accept(tcp).await.expect("a handshake");
        let near = connecting.await.expect("a handshake");
        near.write_all(b"hi".to_vec(), 0).await.0.expect("writes");
        let (result, buf) = far.read(Vec::with_capacity(8)).await;
        assert_eq!((result.expect("reads"), buf.as_slice()), (2, &b"hi"[..]));
    });
}
