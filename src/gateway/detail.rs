//! Records of whole requests: which requests, and the texts.
//!
//! Tyk: `handler_success.go` (`recordDetail`, `RecordHit`), `handler_error.go`; keys
//! `enable_detailed_recording` of `analytics_config`, of definitions, keys and, with
//! `enforce_org_data_detail_logging`, of organisations. Cost when off: a comparison for each request
//! that is recorded.

use std::io::Write as _;

use crate::{
    analytics::DETAIL_BYTES_MAX,
    exchange::{
        Ctx, Reply,
        detail::{Answer, Detail},
    },
    gateway::snapshot::Mount,
    http::{
        compress::Gunzip,
        h1::{FieldName, Framing},
    },
};

/// Begins to keep what passes, where that is wanted.
#[inline]
pub fn begin(mount: &Mount, cx: &mut Ctx) {
    let Some(recorder) = mount
        .api
        .recorder
        .as_ref()
        .filter(|_| cx.course.is_recorded)
    else {
        return;
    };
    let of_session = cx.access.as_ref().is_some_and(|access| access.is_detailed);
    if recorder.wants_detail(of_session, cx.course.organisation.is_detailed) && !is_grpc_stream(cx)
    {
        cx.course.detail = Some(Box::default());
    }
}

/// Tyk: `IsGrpcStreaming`.
fn is_grpc_stream(cx: &Ctx) -> bool {
    cx.head.framing == Framing::Chunked
        && cx.field(FieldName::ContentType) == Some(b"application/grpc")
}

/// Keeps an answer of the gateway's own.
pub fn replied(detail: &Detail, reply: &Reply, reason: &str) {
    let mut answer = detail.answer.borrow_mut();
    *answer = Answer::default();
    // Tyk quirk: the version of an answer that was never sent by anybody.
    let head = &mut answer.head;
    let _ = write!(head, "HTTP/0.0 {} {reason}\r\n", reply.status);
    head.extend_from_slice(&reply.fields);
    answer.content.push(&reply.content);
    answer.is_bare = true;
}

/// Request and answer as they are recorded.
#[must_use]
pub fn texts(cx: &Ctx, detail: &Detail) -> (Vec<u8>, Vec<u8>) {
    (request(cx, detail), answer(&detail.answer.borrow()))
}

fn request(cx: &Ctx, detail: &Detail) -> Vec<u8> {
    let head = match detail.request_head.as_slice() {
        // It got no further than here.
        [] => cx.inb.get(..cx.head.len).unwrap_or_default(),
        head => head,
    };
    let (content, total) = match &cx.content {
        Some(content) => (content.as_slice(), content.len() as u64),
        None => (detail.request.bytes(), detail.request.total()),
    };
    let is_chunked = cx.head.framing == Framing::Chunked
        && (cx.content.is_none() || detail.request_head.is_empty());
    let mut out = head.strip_suffix(b"\r\n").unwrap_or(head).to_vec();
    let mut framing = Vec::new();
    if is_chunked {
        // Chunks as they came are nothing that anybody needs to know.
        let _ = write!(framing, "{total:x}\r\n");
    }
    let is_whole = finish(&mut out, &framing, content, Some(total));
    if is_chunked && is_whole {
        out.extend_from_slice(if total > 0 { b"\r\n0\r\n\r\n" } else { b"\r\n" });
    }
    out
}

fn answer(answer: &Answer) -> Vec<u8> {
    let mut out = answer.head.clone();
    if out.is_empty() {
        return out;
    }
    let content = &answer.content;
    let is_captured = content.bytes().len() as u64 == content.total();
    let unpacked = answer.is_gzip.then(|| unpack(content.bytes())).flatten();
    let (content, total) = match &unpacked {
        Some((plain, is_all)) => {
            let total = (*is_all && is_captured).then_some(plain.len() as u64);
            (plain.as_slice(), total)
        }
        None => (content.bytes(), Some(content.total())),
    };
    if let Some(total) = total.filter(|_| !answer.is_bare) {
        let _ = write!(out, "Content-Length: {total}\r\n");
    }
    finish(&mut out, b"", content, total);
    out
}

/// Appends the empty line, `framing` and as much of the content as there is room for; a field tells
/// when that is not all of it. `total`: what there was, where that is known.
fn finish(out: &mut Vec<u8>, framing: &[u8], content: &[u8], total: Option<u64>) -> bool {
    const NOTE_MAX: usize = 100;
    let room = DETAIL_BYTES_MAX.saturating_sub(out.len() + framing.len() + NOTE_MAX);
    let kept = content.get(..room).unwrap_or(content);
    let is_whole = total == Some(kept.len() as u64);
    if !is_whole {
        let _ = write!(out, "X-Penstock-Recorded: {} bytes", kept.len());
        if let Some(total) = total {
            let _ = write!(out, " of {total}");
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(framing);
    out.extend_from_slice(kept);
    is_whole
}

/// Content as it was before it was packed, up to the bound, and whether that is all. `None`: it is
/// not what its fields say.
fn unpack(packed: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut plain = Vec::new();
    let mut gunzip = Gunzip::new();
    let pushed = gunzip.push(packed, &mut plain, DETAIL_BYTES_MAX).ok()?;
    Some((plain, !pushed.is_full && gunzip.is_complete()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(head: &str, content: &[u8], change: impl FnOnce(&mut Answer)) -> Vec<u8> {
        let mut kept = Answer {
            head: head.as_bytes().to_vec(),
            ..Answer::default()
        };
        kept.content.push(content);
        change(&mut kept);
        answer(&kept)
    }

    #[test]
    fn an_answer_is_recorded_as_it_would_be_without_chunks_and_packing() {
        let head = "HTTP/1.1 200 OK\r\nA: b\r\n";
        let plain = recorded(head, b"abc", |_| {});
        assert_eq!(
            plain,
            b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc"
        );
        let bare = recorded(head, b"", |answer| answer.is_bare = true);
        assert_eq!(bare, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
        assert!(recorded("", b"", |_| {}).is_empty(), "there was none");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"abc").unwrap();
        let packed = gzip.finish().unwrap();
        assert_eq!(
            recorded(head, &packed, |answer| answer.is_gzip = true),
            plain
        );
        let broken = recorded(head, b"abc", |answer| answer.is_gzip = true);
        assert_eq!(broken, plain);
        let half = packed.get(..packed.len() - 4).unwrap();
        let cut = recorded(head, half, |answer| answer.is_gzip = true);
        assert!(cut.starts_with(b"HTTP/1.1 200 OK\r\nA: b\r\nX-Penstock-Recorded: "));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_so() {
        let head = "HTTP/1.1 200 OK\r\n";
        for (len, is_cut) in [(DETAIL_BYTES_MAX - 200, false), (DETAIL_BYTES_MAX, true)] {
            let raw = recorded(head, &vec![b'x'; len], |_| {});
            assert!(raw.len() <= DETAIL_BYTES_MAX);
            let text = String::from_utf8(raw).unwrap();
            assert!(text.contains(&format!("Content-Length: {len}\r\n")));
            let note = format!(" bytes of {len}\r\n\r\nxx");
            assert_eq!(text.contains(&note), is_cut, "{len}");
        }
    }
}
