//! Serde types to text by Go's rules (`encoding/json`, `Marshal`).
//!
//! What differs from serde_json: `<`, `>`, `&` and two line separators are escaped, control
//! characters have no short forms but `\n`, `\r` and `\t`, and floats are printed without an
//! exponent between 1e-6 and 1e21, whole ones without a fraction.
//!
//! Go 1.21 (Tyk 5.4.0): `encode.go` (`floatEncoder`, `appendString`).

use std::io;

use serde::Serialize;
use serde_json::{
    Number, Value,
    ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter, Serializer},
};

/// One line, as `json.Marshal` writes it.
///
/// # Panics
/// A map whose keys are not texts.
#[must_use]
pub fn to_go_string<T: Serialize + ?Sized>(value: &T) -> String {
    print(value, Go(CompactFormatter))
}

/// Two spaces per level, as `json.MarshalIndent` writes it for Tyk's files.
///
/// # Panics
/// A map whose keys are not texts.
#[must_use]
pub fn to_go_string_pretty<T: Serialize + ?Sized>(value: &T) -> String {
    print(value, Go(PrettyFormatter::new()))
}

fn print<T: Serialize + ?Sized, F: Formatter>(value: &T, formatter: Go<F>) -> String {
    let mut text = Vec::with_capacity(512);
    value
        .serialize(&mut Serializer::with_formatter(&mut text, formatter))
        .expect("keys are texts and memory takes every byte");
    String::from_utf8(text).expect("a formatter writes texts only")
}

/// A float as Go prints it.
#[must_use]
pub fn go_number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        // The shortest digits that read back, never with an exponent.
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// Brings free data into the form in which it is printed and read again: maps sorted, as Go prints
/// them, and whole numbers without a fraction.
pub fn canonical(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                *number = whole;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(canonical),
        Value::Object(map) => {
            map.sort_keys();
            map.values_mut().for_each(canonical);
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// A float as the integer that its digits give. Not -0, which no integer is.
fn whole(float: f64) -> Option<Number> {
    if float.fract() != 0.0 || float == 0.0 && float.is_sign_negative() {
        return None;
    }
    let digits = go_number(float);
    let signed = digits.parse::<i64>().map(Number::from);
    signed
        .or_else(|_| digits.parse::<u64>().map(Number::from))
        .ok()
}

/// Go's way over the layout of `F`.
struct Go<F>(F);

impl<F: Formatter> Formatter for Go<F> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        to.write_all(go_number(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            to.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            let escaped = chars.next().map_or(0, u32::from);
            write!(to, "\\u{escaped:04x}")?;
            rest = chars.as_str();
        }
        to.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Backspace => to.write_all(br"\u0008"),
            CharEscape::FormFeed => to.write_all(br"\u000c"),
            escape => self.0.write_char_escape(to, escape),
        }
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(to, is_first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(to, is_first)
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_key(to)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: serde_json::Value, expected: &str) {
        assert_eq!(to_go_string(&value), expected);
    }

    #[test]
    fn floats_are_printed_as_go_prints_them() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.5, "0.5"),
            (0.1, "0.1"),
            (1e6, "1000000"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (9.5e-7, "9.5e-7"),
            (-1e-9, "-1e-9"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ] {
            check(json!(value), expected);
        }
    }

    #[test]
    fn free_data_is_sorted_and_its_whole_numbers_are_integers() {
        let mut value =
            json!({"b": [1.0, -0.0, 1e16, 1.5e19, 1e20, 0.5], "a": {"d": 1, "c": -3.0}});
        canonical(&mut value);
        let expected = r#"{"a":{"c":-3,"d":1},"b":[1,-0,10000000000000000,15000000000000000000,100000000000000000000,0.5]}"#;
        assert_eq!(to_go_string(&value), expected);
        assert!(value["b"][0].is_i64() && value["b"][3].is_u64() && value["b"][4].is_f64());
    }

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        check(
            json!("<a href='x'>&\u{2028}\u{2029}</a>"),
            "\"\\u003ca href='x'\\u003e\\u0026\\u2028\\u2029\\u003c/a\\u003e\"",
        );
        check(
            json!("\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}/é"),
            "\"\\\"\\\\\\n\\r\\t\\u0008\\u000c\\u0001\u{7f}/é\"",
        );
        check(json!({"<": ["&"]}), r#"{"\u003c":["\u0026"]}"#);
    }

    #[test]
    fn indented_text_is_that_of_marshal_indent() {
        assert_eq!(
            to_go_string_pretty(&json!({"a": [], "b": {}, "c": [1, "<"]})),
            "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    \"\\u003c\"\n  ]\n}"
        );
    }
}
