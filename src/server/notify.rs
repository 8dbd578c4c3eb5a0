//! Tells a service manager what this process is doing (sd_notify(3)), when NOTIFY_SOCKET is set.
//!
//! Failures are of no consequence to traffic and are dropped: a manager that cannot be told will
//! say so itself.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

use crate::net::sys;

/// The service manager, if there is one.
#[derive(Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Connects to the value of NOTIFY_SOCKET: a path, or `@` and an abstract name.
    #[must_use]
    pub fn new(notify_socket: Option<&str>) -> Self {
        let addr = match notify_socket {
            None | Some("") => None,
            Some(value) => match value.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name).ok(),
                None => SocketAddr::from_pathname(value).ok(),
            },
        };
        Self(addr.and_then(|addr| Some((UnixDatagram::unbound().ok()?, addr))))
    }

    /// This process serves.
    pub fn ready(&self) {
        self.send("READY=1\n");
    }

    /// An upgrade has begun; `ready` or `main_pid` ends it.
    pub fn reloading(&self) {
        // MONOTONIC_USEC is what Type=notify-reload waits for.
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\n",
            sys::monotonic_us()
        ));
    }

    /// Another process serves from now on. Both statements travel together, because the manager
    /// may not listen to that process before it is told.
    pub fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\nREADY=1\n"));
    }

    /// This process drains and ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    fn send(&self, text: &str) {
        if let Some((socket, addr)) = &self.0 {
            let _ = socket.send_to_addr(text.as_bytes(), addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(receiver: &UnixDatagram, name: &str) {
        let notifier = Notifier::new(Some(name));
        notifier.ready();
        notifier.reloading();
        notifier.main_pid(4711);
        notifier.stopping();
        let next = || {
            let mut buf = [0; 200];
            let count = receiver.recv(&mut buf).expect("a datagram");
            String::from_utf8_lossy(&buf[..count]).into_owned()
        };
        assert_eq!(next(), "READY=1\n");
        let reloading = next();
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(next(), "MAINPID=4711\nREADY=1\n");
        assert_eq!(next(), "STOPPING=1\n");
    }

    #[test]
    fn a_manager_is_told_through_a_path_or_an_abstract_name() {
        let path = std::env::temp_dir().join(format!("penstock-notify-{}", std::process::id()));
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        check(&receiver, path.to_str().expect("text"));
        std::fs::remove_file(&path).expect("its file");

        let name = format!("penstock-notify-{}", std::process::id());
        let addr = SocketAddr::from_abstract_name(&name).expect("a name");
        let receiver = UnixDatagram::bind_addr(&addr).expect("a socket");
        check(&receiver, &format!("@{name}"));
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        Notifier::new(None).ready();
        Notifier::new(Some("")).ready();
        Notifier::new(Some("/no/such/socket")).ready();
    }
}
