//! Which trace a request belongs to: read from its fields, written for the upstream.
//!
//! W3C Trace Context (`traceparent`), or B3: read in either of its forms, written in the one of
//! several fields, as Tyk's library does.

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zero.
    pub trace_id: [u8; 16],
    /// Never all zero.
    pub span_id: [u8; 8],
    /// Whether spans are kept; `None` where the sender leaves it to the next.
    pub is_sampled: Option<bool>,
}

/// The fields that carry a [`TraceContext`] (`opentelemetry.context_propagation`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    TraceContext,
    B3,
}

impl Propagation {
    /// What the configuration asks for; `None` for a form that does not exist.
    #[must_use]
    pub fn from_config(name: &str) -> Option<Self> {
        match name {
            "" | "tracecontext" => Some(Self::TraceContext),
            "b3" => Some(Self::B3),
            _ => None,
        }
    }

    /// Reads a request's fields; `field` finds the first value of a name in lower case. `None` where
    /// there is no valid context: the request begins a trace.
    pub fn extract<'a>(self, field: impl Fn(&str) -> Option<&'a [u8]>) -> Option<TraceContext> {
        match self {
            Self::TraceContext => parse_traceparent(field("traceparent")?),
            Self::B3 => field("b3").and_then(parse_b3).or_else(|| {
                parse_b3_fields(
                    field("x-b3-traceid")?,
                    field("x-b3-spanid")?,
                    field("x-b3-sampled"),
                    field("x-b3-flags"),
                )
            }),
        }
    }

    /// Appends whole field lines for the upstream.
    pub fn inject(self, context: &TraceContext, out: &mut Vec<u8>) {
        match self {
            Self::TraceContext => {
                out.extend_from_slice(b"traceparent: 00-");
                hex(&context.trace_id, out);
                out.push(b'-');
                hex(&context.span_id, out);
                let is_sampled = context.is_sampled == Some(true);
                out.extend_from_slice(if is_sampled { b"-01\r\n" } else { b"-00\r\n" });
            }
            Self::B3 => {
                out.extend_from_slice(b"X-B3-TraceId: ");
                hex(&context.trace_id, out);
                out.extend_from_slice(b"\r\nX-B3-SpanId: ");
                hex(&context.span_id, out);
                if let Some(is_sampled) = context.is_sampled {
                    out.extend_from_slice(b"\r\nX-B3-Sampled: ");
                    out.push(if is_sampled { b'1' } else { b'0' });
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Fields of the client, in lower case, that must not reach the upstream beside those that
    /// [`Propagation::inject`] writes: a reader would take the older span for the parent.
    #[must_use]
    pub fn replaced(self) -> &'static [&'static str] {
        match self {
            Self::TraceContext => &["traceparent"],
            // Tyk differs: it leaves `b3` and the parent's id in place.
            Self::B3 => &[
                "b3",
                "x-b3-traceid",
                "x-b3-spanid",
                "x-b3-parentspanid",
                "x-b3-sampled",
                "x-b3-flags",
            ],
        }
    }
}

/// W3C Trace Context, level 1, §3.2: `00-<trace id>-<span id>-<flags>`. A later version may go on
/// behind another `-`.
#[must_use]
pub fn parse_traceparent(value: &[u8]) -> Option<TraceContext> {
    let (head, rest) = value.split_first_chunk::<55>()?;
    let [version, trace_id, span_id, flags] = parts(head)?;
    let [version] = lower_hex::<1>(version)?;
    let is_whole = match version {
        0xff => false,
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest.first() == Some(&b'-'),
    };
    if !is_whole {
        return None;
    }
    let [flags] = lower_hex::<1>(flags)?;
    TraceContext::new(
        lower_hex(trace_id)?,
        lower_hex(span_id)?,
        Some(flags & 1 == 1),
    )
}

/// B3 in one field: `<trace id>-<span id>[-<sampled>[-<parent span id>]]`. The form that only says
/// whether to sample names no trace.
#[must_use]
pub fn parse_b3(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.split(|byte| *byte == b'-');
    let trace_id = b3_trace_id(parts.next()?)?;
    let span_id = any_hex(parts.next()?)?;
    let is_sampled = match parts.next() {
        None => None,
        Some(b"1" | b"d") => Some(true),
        Some(b"0") => Some(false),
        Some(_) => return None,
    };
    if let Some(parent) = parts.next() {
        any_hex::<8>(parent)?;
    }
    if parts.next().is_some() {
        return None;
    }
    TraceContext::new(trace_id, span_id, is_sampled)
}

/// B3 in several fields. Debug (`X-B3-Flags: 1`) means sampled.
#[must_use]
pub fn parse_b3_fields(
    trace_id: &[u8],
    span_id: &[u8],
    sampled: Option<&[u8]>,
    flags: Option<&[u8]>,
) -> Option<TraceContext> {
    let is_sampled = match sampled {
        _ if flags == Some(b"1") => Some(true),
        None | Some(b"") => None,
        Some(b"1") => Some(true),
        Some(b"0") => Some(false),
        Some(word) if word.eq_ignore_ascii_case(b"true") => Some(true),
        Some(word) if word.eq_ignore_ascii_case(b"false") => Some(false),
        Some(_) => return None,
    };
    TraceContext::new(b3_trace_id(trace_id)?, any_hex(span_id)?, is_sampled)
}

impl TraceContext {
    fn new(trace_id: [u8; 16], span_id: [u8; 8], is_sampled: Option<bool>) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            is_sampled,
        })
    }
}

/// Sixteen bytes, or eight with zeros before them.
fn b3_trace_id(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 16 {
        return any_hex(text);
    }
    let low = u64::from_be_bytes(any_hex(text)?);
    Some(u128::from(low).to_be_bytes())
}

/// The four parts of a `traceparent` of version 0.
fn parts(head: &[u8; 55]) -> Option<[&[u8]; 4]> {
    let mut parts = head.split(|byte| *byte == b'-');
    let found = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let lengths = found.map(<[u8]>::len);
    (lengths == [2, 32, 16, 2] && parts.next().is_none()).then_some(found)
}

fn lower_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    match text.iter().any(u8::is_ascii_uppercase) {
        true => None,
        false => any_hex(text),
    }
}

fn any_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        for digit in digits {
            let value = char::from(*digit).to_digit(16)?;
            *byte = *byte << 4 | value as u8;
        }
    }
    Some(bytes)
}

/// Appends bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    // Ids of every traced request pass here: no look-up, no branch.
    const fn digit(value: u8) -> u8 {
        value + b'0' + (value > 9) as u8 * (b'a' - b'0' - 10)
    }
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn bytes_are_written_as_two_digits() {
        for byte in 0..=u8::MAX {
            let mut out = Vec::new();
            hex(&[byte], &mut out);
            assert_eq!(out, format!("{byte:02x}").as_bytes());
        }
    }

    fn context(is_sampled: Option<bool>) -> TraceContext {
        TraceContext {
            trace_id: any_hex(TRACE.as_bytes()).unwrap(),
            span_id: any_hex(SPAN.as_bytes()).unwrap(),
            is_sampled,
        }
    }

    #[test]
    fn traceparent_reads_as_the_recommendation_says() {
        #[track_caller]
        fn check(value: &str, expected: Option<TraceContext>) {
            assert_eq!(parse_traceparent(value.as_bytes()), expected, "{value}");
        }
        let (on, off) = (Some(context(Some(true))), Some(context(Some(false))));
        check(&format!("00-{TRACE}-{SPAN}-01"), on);
        check(&format!("00-{TRACE}-{SPAN}-00"), off);
        check(&format!("00-{TRACE}-{SPAN}-ff"), on);
        check(&format!("00-{TRACE}-{SPAN}-02"), off);
        check(&format!("cc-{TRACE}-{SPAN}-01"), on);
        check(&format!("cc-{TRACE}-{SPAN}-01-what.comes"), on);
        check(&format!("cc-{TRACE}-{SPAN}-01what"), None);
        check(&format!("00-{TRACE}-{SPAN}-01-x"), None);
        check(&format!("ff-{TRACE}-{SPAN}-01"), None);
        check(&format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None);
        check(&format!("00-{}-{SPAN}-01", "0".repeat(32)), None);
        check(&format!("00-{TRACE}-{}-01", "0".repeat(16)), None);
        check(&format!("00-{TRACE}-{SPAN}-1"), None);
        check(&format!("00-{TRACE}_{SPAN}-01"), None);
        check(&format!("0g-{TRACE}-{SPAN}-01"), None);
        check(&format!("00-{TRACE}-{SPAN}-0"), None);
        check("", None);
    }

    #[test]
    fn b3_reads_in_one_field() {
        #[track_caller]
        fn check(value: &str, expected: Option<TraceContext>) {
            assert_eq!(parse_b3(value.as_bytes()), expected, "{value}");
        }
        check(&format!("{TRACE}-{SPAN}"), Some(context(None)));
        check(&format!("{TRACE}-{SPAN}-1"), Some(context(Some(true))));
        check(&format!("{TRACE}-{SPAN}-d"), Some(context(Some(true))));
        check(
            &format!("{TRACE}-{SPAN}-0-{SPAN}"),
            Some(context(Some(false))),
        );
        let short = TraceContext {
            trace_id: any_hex(format!("{}{SPAN}", "0".repeat(16)).as_bytes()).unwrap(),
            ..context(None)
        };
        check(&format!("{SPAN}-{SPAN}"), Some(short));
        check("0", None);
        check(&format!("{TRACE}-{SPAN}-x"), None);
        check(&format!("{TRACE}-{SPAN}-1-short"), None);
        check(&format!("{TRACE}-{SPAN}-1-{SPAN}-more"), None);
        check(&format!("{TRACE}-{}", "0".repeat(16)), None);
        check("", None);
    }

    #[test]
    fn b3_reads_in_several_fields() {
        #[track_caller]
        fn check(sampled: Option<&str>, flags: Option<&str>, expected: Option<Option<bool>>) {
            let (sampled, flags) = (sampled.map(str::as_bytes), flags.map(str::as_bytes));
            let found = parse_b3_fields(TRACE.as_bytes(), SPAN.as_bytes(), sampled, flags);
            assert_eq!(found, expected.map(context));
        }
        check(None, None, Some(None));
        check(Some("1"), None, Some(Some(true)));
        check(Some("TRUE"), None, Some(Some(true)));
        check(Some("0"), None, Some(Some(false)));
        check(Some("false"), Some("0"), Some(Some(false)));
        check(Some("0"), Some("1"), Some(Some(true)));
        check(Some("2"), None, None);
        assert!(parse_b3_fields(b"x", SPAN.as_bytes(), None, None).is_none());
    }

    #[test]
    fn what_is_injected_is_extracted_again_and_replaces_the_clients_own() {
        for propagation in [Propagation::TraceContext, Propagation::B3] {
            for is_sampled in [true, false] {
                let context = context(Some(is_sampled));
                let mut out = Vec::new();
                propagation.inject(&context, &mut out);
                let text = String::from_utf8(out).unwrap();
                let fields: Vec<(String, &str)> = text
                    .split_terminator("\r\n")
                    .map(|line| line.split_once(": ").unwrap())
                    .map(|(name, value)| (name.to_ascii_lowercase(), value))
                    .collect();
                let replaced = propagation.replaced();
                assert!(fields.iter().all(|(name, _)| replaced.contains(&&**name)));
                let found = propagation.extract(|name| {
                    let found = fields.iter().find(|(field, _)| field == name)?;
                    Some(found.1.as_bytes())
                });
                assert_eq!(found, Some(context), "{text}");
            }
        }
    }

    #[test]
    fn the_form_is_chosen_by_name() {
        assert_eq!(
            Propagation::from_config(""),
            Some(Propagation::TraceContext)
        );
        assert_eq!(Propagation::from_config("b3"), Some(Propagation::B3));
        assert_eq!(Propagation::from_config("jaeger"), None);
    }
}
