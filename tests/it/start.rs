//! Starting where another process has just been, or still is.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::{
    Client, Gateway, Load, Origin, PATIENCE, Response, Setup, api, eventually, merge,
};

/// A socket that listens, and its port.
fn somebody() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

fn is_ready(port: u16) -> bool {
    let client = Client::try_connect(port).ok();
    client.is_some_and(|mut client| client.get("/ready").status == 200)
}

fn has_logged(gateway: &Gateway, text: &str) {
    eventually(text, || gateway.log().contains(text).then_some(()));
}

#[test]
fn a_port_that_becomes_free_in_a_moment_is_waited_for() {
    // As after kill -9: the kernel keeps the sockets of a ring for a while.
    for key in ["listen_port", "control_api_port"] {
        let (listener, port) = somebody();
        let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
        let setup = Setup::in_front_of(origin.port()).conf(json!({(key): port}));
        let gateway = setup.spawn();
        has_logged(&gateway, "waiting up to 2 s");
        drop(listener);
        eventually("ready", || is_ready(port).then_some(()));
    }
}

#[test]
fn a_port_that_somebody_keeps_is_refused_with_its_remedy() {
    let (_listener, port) = somebody();
    let setup = Setup::in_front_of(port).conf(json!({"listen_port": port}));
    let mut gateway = setup.spawn();
    assert_eq!(gateway.exit_code(PATIENCE * 2), Some(Some(1)));
    has_logged(&gateway, &format!("port {port} is in use"));
    // Two gateways of one user could share it; neither would get all of its clients.
    let first = Setup::in_front_of(port).start();
    let port = first.port();
    let setup = Setup::in_front_of(port).conf(json!({"listen_port": port}));
    let mut second = setup.spawn();
    assert_eq!(second.exit_code(PATIENCE * 2), Some(Some(1)));
    assert!(is_ready(port));
}

#[test]
fn a_taken_port_of_one_api_holds_nobody_up_and_is_taken_when_it_is_free() {
    let (listener, port) = somebody();
    let origin = Origin::answering(|_| Response::new(200, "own").to_bytes());
    let mut own = api("own", &origin.url());
    merge(&mut own, json!({"listen_port": port}));
    // The other API is there at once.
    let setup = Setup::in_front_of(origin.port()).api(own);
    let gateway = setup.conf(json!({"disable_ports_whitelist": true})).spawn();
    eventually("ready", || is_ready(gateway.port()).then_some(()));
    drop(listener);
    eventually("the API's port", || {
        if gateway.log().contains("is in use") {
            // This machine was so slow that it had been given up.
            gateway.reload();
        }
        let mut client = Client::try_connect(port).ok()?;
        (client.get("/own/x").body == b"own").then_some(())
    });
}

#[test]
fn a_gateway_that_was_killed_under_load_starts_again_at_once() {
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    let mut gateway = Setup::in_front_of(origin.port()).start();
    for _ in 0..10 {
        let load = Load::start(gateway.port(), "/w/x", 4, false);
        load.run_for(50);
        gateway.kill_and_start_again();
        eventually("it serves again", || is_ready(gateway.port()).then_some(()));
        load.stop();
    }
}
