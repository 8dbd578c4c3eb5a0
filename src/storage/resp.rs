//! Redis' wire format, for a connection that is written and read without waiting in between.
//!
//! The `redis` crate's reader wants all of a reply, or a stream that it may wait for; here replies are
//! read off whatever has come. RESP2:
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use crate::storage::{
    Eval, ScriptReply,
    redis::{Refusal, refusal},
};

/// Replies longer than this are none: scripts answer with a few numbers.
const BYTES_MAX: usize = 1 << 20;

const DEPTH_MAX: usize = 4;

/// The longest line that begins a value other than a text.
const HEAD_MAX: usize = 64;

/// Bytes that are no reply.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer is not of its protocol")]
pub struct Malformed;

/// Appends the run of a script, by its name (`EVALSHA`) or by its text (`EVAL`).
pub fn write_eval(eval: &Eval, is_by_text: bool, out: &mut Vec<u8>) {
    write_head(b'*', 3 + eval.keys.len() + eval.args.len(), out);
    if is_by_text {
        write_bulk(b"EVAL", out);
        write_bulk(eval.script.source().as_bytes(), out);
    } else {
        write_bulk(b"EVALSHA", out);
        write_bulk(eval.script.sha1().as_bytes(), out);
    }
    let mut count = Vec::with_capacity(4);
    push_number(eval.keys.len(), &mut count);
    write_bulk(&count, out);
    for key in &eval.keys {
        write_bulk(key.as_bytes(), out);
    }
    for arg in &eval.args {
        write_bulk(arg, out);
    }
}

fn write_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    write_head(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn write_head(kind: u8, count: usize, out: &mut Vec<u8>) {
    out.push(kind);
    push_number(count, out);
    out.extend_from_slice(b"\r\n");
}

fn push_number(number: usize, out: &mut Vec<u8>) {
    let (mut digits, mut rest, mut len) = ([b'0'; 20], number, 0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        len += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - len..).unwrap_or_default());
}

/// What a reply says, and the bytes that it takes.
pub type Read = (Result<ScriptReply, Refusal>, usize);

/// Reads the reply that `bytes` begin with; `None` when not all of it is there.
///
/// # Errors
/// These bytes do not begin a reply.
pub fn read_reply(bytes: &[u8]) -> Result<Option<Read>, Malformed> {
    if bytes.first() != Some(&b'-') {
        return Ok(value(bytes, 0)?.map(|(value, len)| (Ok(value), len)));
    }
    let Some(end) = line_end(bytes) else {
        return incomplete(bytes, BYTES_MAX);
    };
    let line = bytes.get(..end + 2).unwrap_or_default();
    Ok(Some((Err(refusal(line)?), line.len())))
}

/// Where the first line ends: at its `\r\n`.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let at = bytes.iter().position(|byte| *byte == b'\r')?;
    (bytes.get(at + 1) == Some(&b'\n')).then_some(at)
}

fn incomplete<T>(bytes: &[u8], len_max: usize) -> Result<Option<T>, Malformed> {
    let is_too_long = bytes.len() > len_max;
    if is_too_long {
        Err(Malformed)
    } else {
        Ok(None)
    }
}

fn value(bytes: &[u8], depth: usize) -> Result<Option<(ScriptReply, usize)>, Malformed> {
    let Some(kind) = bytes.first() else {
        return Ok(None);
    };
    if depth > DEPTH_MAX || !b":+$*".contains(kind) {
        return Err(Malformed);
    }
    let Some(end) = line_end(bytes) else {
        let is_text = *kind == b'+';
        return incomplete(bytes, if is_text { BYTES_MAX } else { HEAD_MAX });
    };
    let line = bytes.get(1..end).unwrap_or_default();
    let mut at = end + 2;
    let number = || {
        let text = std::str::from_utf8(line).map_err(|_| Malformed)?;
        text.parse::<i64>().map_err(|_| Malformed)
    };
    // Nothing is written as a length below zero.
    let len = || match usize::try_from(number()?) {
        Ok(len) if len > BYTES_MAX => Err(Malformed),
        len => Ok(len.ok()),
    };
    let value = match kind {
        b':' => ScriptReply::Int(number()?),
        b'+' => ScriptReply::Bytes(line.to_vec()),
        b'$' => match len()? {
            None => ScriptReply::Nil,
            Some(len) => {
                let Some(text) = bytes.get(at..at + len + 2) else {
                    return Ok(None);
                };
                at += len + 2;
                let text = text.strip_suffix(b"\r\n").ok_or(Malformed)?;
                ScriptReply::Bytes(text.to_vec())
            }
        },
        _ => match len()? {
            None => ScriptReply::Nil,
            Some(count) => {
                let mut items = Vec::with_capacity(count.min(8));
                for _ in 0..count {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let Some((item, len)) = self::value(rest, depth + 1)? else {
                        return incomplete(bytes, BYTES_MAX);
                    };
                    items.push(item);
                    at += len;
                }
                ScriptReply::Array(items)
            }
        },
    };
    Ok(Some((value, at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Script;

    fn int(value: i64) -> ScriptReply {
        ScriptReply::Int(value)
    }

    #[test]
    fn replies_are_read_however_they_are_cut() {
        let text = b":12\r\n*4\r\n:-3\r\n$2\r\nab\r\n$-1\r\n+OK\r\n*0\r\n-NOSCRIPT no\r\n*-1\r\n";
        let bytes = |text: &[u8]| ScriptReply::Bytes(text.to_vec());
        let expected = [
            Some(int(12)),
            Some(ScriptReply::Array(vec![
                int(-3),
                bytes(b"ab"),
                ScriptReply::Nil,
                bytes(b"OK"),
            ])),
            Some(ScriptReply::Array(Vec::new())),
            None,
            Some(ScriptReply::Nil),
        ];
        let mut read = Vec::new();
        let (mut from, mut to) = (0, 0);
        while to <= text.len() {
            match read_reply(&text[from..to]).unwrap() {
                Some((reply, len)) => {
                    assert_eq!(from + len, to, "read as soon as it is there");
                    if let Err(refusal) = &reply {
                        assert!(refusal.is_script_unknown && !refusal.is_server_void);
                    }
                    read.push(reply.ok());
                    from += len;
                }
                None => to += 1,
            }
        }
        assert_eq!(read, expected);
    }

    #[test]
    fn a_server_that_takes_no_writes_is_none() {
        for (line, is_server_void) in [
            (
                &b"-READONLY You can't write against a read only replica.\r\n"[..],
                true,
            ),
            (b"-NOAUTH Authentication required.\r\n", true),
            (b"-ERR syntax error\r\n", false),
        ] {
            let (reply, len) = read_reply(line).unwrap().unwrap();
            let refusal = reply.unwrap_err();
            assert_eq!(refusal.is_server_void, is_server_void, "{refusal:?}");
            assert_eq!(len, line.len());
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_and_never_waited_for() {
        for text in [
            &b"?\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b":1x\r\n",
            b"$1\r\nabc",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            b"$9999999999\r\n",
            b"*99999999999999999999\r\n",
            &[b':'; 100],
        ] {
            assert!(read_reply(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn scripts_are_written_as_the_library_writes_them() {
        static SCRIPT: Script = Script::new("return 1");
        let eval = Eval {
            script: &SCRIPT,
            keys: vec!["k1".to_owned(), String::new()],
            args: vec![b"\0\r\n".to_vec(), b"1234567890".to_vec()],
        };
        for (is_by_text, command, script) in [
            (false, "EVALSHA", SCRIPT.sha1()),
            (true, "EVAL", SCRIPT.source()),
        ] {
            let mut expected = redis::cmd(command);
            expected.arg(script).arg(eval.keys.len()).arg(&eval.keys);
            expected.arg(&eval.args);
            let mut out = Vec::new();
            write_eval(&eval, is_by_text, &mut out);
            assert_eq!(out, expected.get_packed_command());
        }
        let mut out = Vec::new();
        push_number(usize::MAX, &mut out);
        assert_eq!(out, usize::MAX.to_string().into_bytes());
    }
}
