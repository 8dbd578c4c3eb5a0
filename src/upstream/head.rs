//! Heads rewritten in one pass: what the upstream sees of a request, what the client sees of an
//! answer.
//!
//! Tyk: `reverse_proxy.go` (`ServeHTTP`, `HandleResponse`), `net/http` for what Go's transport adds.

use std::{io::Write as _, net::IpAddr};

use crate::{
    exchange::{Ctx, Local, detail::Answer},
    http::{
        h1::{Expect, FieldName, Framing, Method, ResponseHead},
        hop_by_hop,
    },
    upstream::target::{Target, Upstream},
};

/// How the content of a message is framed towards its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    Nothing,
    Length(u64),
    Chunked,
    /// The end of the connection ends the content.
    UntilClose,
}

/// The name that the gateway gives itself when a client gives none, as Tyk's (C: clients' upstreams
/// may filter on it).
const USER_AGENT: &[u8] = b"User-Agent: Tyk/v5.4.0\r\n";

/// Appends the head of the request to `target`. Answers whether gzip was asked for on the
/// gateway's own account, so that the answer must be decoded.
pub fn write_request(
    out: &mut Vec<u8>,
    cx: &Ctx,
    peer: IpAddr,
    upstream: &Upstream,
    target: &Target,
    path: &[u8],
    upgrade: bool,
) -> bool {
    let head = &cx.head;
    out.extend_from_slice(cx.part(head.method_span));
    out.push(b' ');
    if target.proxy.is_some() && target.tls.is_none() {
        out.extend_from_slice(b"http://");
        out.extend_from_slice(&target.authority);
    }
    target.write_path(out, path, cx.upstream_query());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match head.host.filter(|_| upstream.preserve_host) {
        Some(host) => out.extend_from_slice(cx.part(host)),
        None => out.extend_from_slice(&target.authority),
    }
    out.extend_from_slice(b"\r\n");
    if let Some(via) = target.proxy.as_ref().filter(|_| target.tls.is_none())
        && let Some(authorization) = &via.proxy.authorization
    {
        write_field(out, b"Proxy-Authorization", authorization.as_bytes());
    }

    let mut forwarded_for = false;
    let mut user_agent = false;
    let mut accept_encoding = false;
    let mut range = false;
    for (place, field) in head.fields.iter().enumerate() {
        let name = cx.part(field.name);
        let mut value = cx.part(field.value);
        if let Some(edit) = cx.edits.as_ref().and_then(|edits| edits.field(place)) {
            match edit {
                None => continue,
                Some(edited) => value = edited,
            }
        }
        if head.is_connection_option(&cx.inb, name) {
            continue;
        }
        match field.id {
            FieldName::Host | FieldName::ContentLength | FieldName::XForwardedFor => {
                forwarded_for |= field.id == FieldName::XForwardedFor;
                continue;
            }
            FieldName::Te if value.eq_ignore_ascii_case(b"trailers") => {}
            FieldName::UserAgent => user_agent = true,
            FieldName::AcceptEncoding => accept_encoding |= !value.is_empty(),
            FieldName::Range => range = true,
            // Whoever read the content has answered the expectation.
            // HTTP/1.0 has no expectations (RFC 9110 §10.1.1).
            FieldName::Expect if cx.content.is_some() || cx.head.version_minor == 0 => continue,
            id if hop_by_hop::is_hop_by_hop(id) => continue,
            FieldName::Other if cx.trace.as_ref().is_some_and(|trace| trace.replaces(name)) => {
                continue;
            }
            _ => {}
        }
        write_field(out, name, value);
    }
    if let Some(trace) = &cx.trace {
        trace.write_upstream_fields(out);
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    if forwarded_for {
        for field in head.fields.all(FieldName::XForwardedFor) {
            out.extend_from_slice(cx.part(field.value));
            out.extend_from_slice(b", ");
        }
    }
    write_ip(out, peer);
    out.extend_from_slice(b"\r\n");
    if !user_agent {
        out.extend_from_slice(USER_AGENT);
    }
    // Go's transport asks for gzip and decodes it when the caller asked for nothing.
    let decode = !accept_encoding && !range && head.method != Method::Head && !upgrade;
    if decode {
        out.extend_from_slice(b"Accept-Encoding: gzip\r\n");
    }
    if upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        let value = head
            .upgrade
            .map(|upgrade| cx.part(upgrade))
            .unwrap_or_default();
        out.extend(value.iter().map(u8::to_ascii_lowercase));
        out.extend_from_slice(b"\r\n");
    } else if upstream.close_connections {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    match request_content(cx) {
        Send::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Send::Length(length) => write_length(out, length),
        Send::Nothing | Send::UntilClose => {}
    }
    out.extend_from_slice(b"\r\n");
    decode
}

/// Appends a request's head for its record: as it was sent, without what a proxy on the way may know.
pub fn copy_request(out: &mut Vec<u8>, head: &[u8]) {
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b"Proxy-Authorization: ") {
            out.extend_from_slice(line);
        }
    }
}

/// Keeps an answer's head for its record: as for the client, without framing and packing.
pub fn copy_answer(
    kept: &mut Answer,
    answer: &ResponseHead,
    buf: &[u8],
    cx: &Ctx,
    local: &Local,
    how: &AnswerHead,
) {
    kept.is_bare = how.send == Send::Nothing;
    kept.is_gzip = !how.decoded
        && !kept.is_bare
        && answer.fields.iter().any(|field| {
            field.id == FieldName::ContentEncoding
                && field.value.of(buf).eq_ignore_ascii_case(b"gzip")
        });
    let how = AnswerHead {
        send: if kept.is_bare {
            Send::Nothing
        } else {
            Send::UntilClose
        },
        close: false,
        decoded: how.decoded || kept.is_gzip,
    };
    write_answer(&mut kept.head, answer, buf, cx, local, &how);
    // What ends it comes with the content.
    kept.head.truncate(kept.head.len().saturating_sub(2));
}

/// How the request's content goes on. Methods that usually have content say so when there is none
/// (RFC 9110 §8.6).
#[must_use]
pub fn request_content(cx: &Ctx) -> Send {
    let length = match (&cx.content, cx.head.framing) {
        (Some(content), _) => content.len() as u64,
        (None, Framing::Chunked) => return Send::Chunked,
        (None, Framing::Length(length)) => length,
        (None, Framing::None | Framing::UntilClose) => 0,
    };
    let announces_none = matches!(cx.head.method, Method::Post | Method::Put | Method::Patch);
    if length > 0 || announces_none {
        Send::Length(length)
    } else {
        Send::Nothing
    }
}

/// What the client's copy of an answer must say beside the upstream's own fields.
pub struct AnswerHead {
    pub send: Send,
    pub close: bool,
    /// The content is decoded on its way.
    pub decoded: bool,
}

/// Appends the head of an answer for the client.
pub fn write_answer(
    out: &mut Vec<u8>,
    answer: &ResponseHead,
    buf: &[u8],
    cx: &Ctx,
    local: &Local,
    how: &AnswerHead,
) {
    write_status(out, cx, answer.status, answer.reason.of(buf));
    let mut date = false;
    for field in &answer.fields {
        let name = field.name.of(buf);
        match field.id {
            // A HEAD or 304 answer keeps the length of what it stands for; RFC 9110 §8.6: a 204
            // has none.
            FieldName::ContentLength
                if how.send != Send::Nothing || how.decoded || answer.status == 204 =>
            {
                continue;
            }
            FieldName::ContentEncoding if how.decoded => continue,
            FieldName::Date => date = true,
            id if hop_by_hop::is_hop_by_hop(id) => continue,
            _ => {}
        }
        if answer
            .connection_options
            .iter()
            .any(|option| option.of(buf).eq_ignore_ascii_case(name))
        {
            continue;
        }
        write_field(out, name, field.value.of(buf));
    }
    if !date {
        local.write_date(out);
    }
    write_quota(out, cx.quota);
    out.extend_from_slice(&cx.answer_fields);
    match how.send {
        Send::Length(length) => write_length(out, length),
        Send::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Send::Nothing | Send::UntilClose => {}
    }
    write_connection(out, cx, how.close);
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim answer (RFC 9110 §15.2) with the fields that belong to it.
pub fn write_interim(out: &mut Vec<u8>, answer: &ResponseHead, buf: &[u8]) {
    let _ = write!(out, "HTTP/1.1 {} ", answer.status);
    out.extend_from_slice(answer.reason.of(buf));
    out.extend_from_slice(b"\r\n");
    for field in &answer.fields {
        let end_to_end =
            field.id != FieldName::ContentLength && !hop_by_hop::is_hop_by_hop(field.id);
        if end_to_end {
            write_field(out, field.name.of(buf), field.value.of(buf));
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the 101 that ends HTTP on this connection.
pub fn write_switching(out: &mut Vec<u8>, answer: &ResponseHead, buf: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    for field in &answer.fields {
        let name = field.name.of(buf);
        let value = field.value.of(buf);
        match field.id {
            FieldName::Upgrade => {
                out.extend_from_slice(b"Upgrade: ");
                out.extend(value.iter().map(u8::to_ascii_lowercase));
                out.extend_from_slice(b"\r\n");
            }
            FieldName::ContentLength => {}
            id if hop_by_hop::is_hop_by_hop(id) => {}
            _ => write_field(out, name, value),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a status line in the version that the client speaks.
pub fn write_status(out: &mut Vec<u8>, cx: &Ctx, status: u16, reason: &[u8]) {
    out.extend_from_slice(if cx.head.version_minor == 0 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    out.extend([
        b'0' + (status / 100 % 10) as u8,
        b'0' + (status / 10 % 10) as u8,
        b'0' + (status % 10) as u8,
        b' ',
    ]);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends what the client must know of the connection's future.
pub fn write_connection(out: &mut Vec<u8>, cx: &Ctx, close: bool) {
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if cx.head.version_minor == 0 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

/// Whether the client waits for a 100 before it sends its content.
#[must_use]
pub fn waits_for_continue(cx: &Ctx) -> bool {
    cx.head.expect == Expect::Continue && cx.head.version_minor > 0
}

/// Appends `Content-Length`.
pub fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_quota(out: &mut Vec<u8>, quota: [i64; 3]) {
    if quota == [0; 3] {
        out.extend_from_slice(
            b"X-Ratelimit-Limit: 0\r\nX-Ratelimit-Remaining: 0\r\nX-Ratelimit-Reset: 0\r\n",
        );
    } else {
        let [limit, remaining, reset] = quota;
        let _ = write!(
            out,
            "X-Ratelimit-Limit: {limit}\r\nX-Ratelimit-Remaining: {remaining}\r\n\
             X-Ratelimit-Reset: {reset}\r\n"
        );
    }
}

fn write_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        at -= 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                write_decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(ip) => {
            let _ = write!(out, "{ip}");
        }
    }
}
