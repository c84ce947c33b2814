//! What is known of an object, as `name=value` lines for sh(1) and as JSON for `jq`.
//!
//! Both are printed from the same values. A line can be sourced by `sh` whatever a value holds:
//! what is not plainly a word is put in single quotes.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::vfs::Attr;

/// Names and values in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, Field)>);

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A whole number.
    Number(i128),
    /// Permission bits: octal, `0640`.
    Mode(u32),
    /// Text; any bytes.
    Text(Vec<u8>),
    /// Several numbers, separated by blanks.
    Numbers(Vec<i128>),
}

impl Fields {
    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: &str, value: impl Into<i128>) -> Self {
        self.0.push((name.into(), Field::Number(value.into())));
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.0.push((name.into(), Field::Text(value.into())));
        self
    }

    /// Adds permission bits.
    #[must_use]
    pub fn mode(mut self, value: u32) -> Self {
        self.0.push(("mode".into(), Field::Mode(value & 0o7777)));
        self
    }

    /// Adds the times, in seconds since 1970: `atime`, `mtime`, `ctime`.
    #[must_use]
    pub fn times(self, attr: &Attr) -> Self {
        self.number("atime", seconds(attr.atime))
            .number("mtime", seconds(attr.mtime))
            .number("ctime", seconds(attr.ctime))
    }

    /// Adds several numbers.
    #[must_use]
    pub fn numbers(mut self, name: &str, values: impl IntoIterator<Item = i128>) -> Self {
        self.0.push((name.into(), Field::Numbers(values.into_iter().collect())));
        self
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, field)| field)
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.0.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// As `name=value` lines.
    pub fn sh(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (name, field) in &self.0 {
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            match field {
                Field::Number(number) => text.extend_from_slice(number.to_string().as_bytes()),
                Field::Mode(mode) => text.extend_from_slice(format!("{mode:04o}").as_bytes()),
                Field::Text(bytes) => quote(bytes, &mut text),
                Field::Numbers(numbers) => quote(join(numbers).as_bytes(), &mut text),
            }
            text.push(b'\n');
        }
        text
    }

    /// As a JSON object; what is no UTF-8 is replaced by U+FFFD.
    pub fn json(&self) -> Value {
        let value = |field: &Field| match field {
            Field::Number(number) => number_value(*number),
            Field::Mode(mode) => Value::String(format!("{mode:04o}")),
            Field::Text(bytes) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
            Field::Numbers(numbers) => numbers.iter().map(|number| number_value(*number)).collect(),
        };
        let fields = self.0.iter().map(|(name, field)| (name.clone(), value(field)));
        Value::Object(fields.collect::<Map<_, _>>())
    }
}

fn seconds(time: SystemTime) -> i128 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::from(after.as_secs()),
        Err(before) => -i128::from(before.duration().as_secs()),
    }
}

fn number_value(number: i128) -> Value {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) => number.into(),
        _ => number.to_string().into(),
    }
}

fn join(numbers: &[i128]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Writes a text so that sh(1) takes it for one word that it expands nothing in.
pub fn quote(text: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./:@%+,-".contains(byte);
    if !text.is_empty() && text.iter().all(plain) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'\'');
    for byte in text {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = Vec::new();
        quote(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_no_plain_word_is_quoted() {
        assert_eq!(quoted("jobs-1.a"), "jobs-1.a");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(rm x)"), "'$(rm x)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("a\nb"), "'a\nb'");
    }

    #[test]
    fn both_formats_hold_the_same_values() {
        let fields = Fields::default()
            .text("name", "a b")
            .mode(0o640)
            .number("size", 3)
            .numbers("values", [1, 2]);
        assert_eq!(fields.sh(), b"name='a b'\nmode=0640\nsize=3\nvalues='1 2'\n");
        let json = r#"{"name":"a b","mode":"0640","size":3,"values":[1,2]}"#;
        assert_eq!(fields.json().to_string(), json);
        assert_eq!(fields.get("size"), Some(&Field::Number(3)));
    }

    /// Bytes that a name can have, of those that mean something to a shell more than of others.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let special = prop::sample::select(b"'\"\\$`\n\t ;&|<>()#*?[]{}=~!".to_vec());
        vec(prop_oneof![3 => special, 1 => 1..=u8::MAX], 0..12)
    }

    fn field() -> impl Strategy<Value = Field> {
        let number = prop_oneof![
            any::<i64>().prop_map(i128::from),
            any::<u64>().prop_map(i128::from),
            any::<i128>()
        ];
        prop_oneof![
            4 => value().prop_map(Field::Text),
            1 => number.clone().prop_map(Field::Number),
            1 => (0..=0o7777_u32).prop_map(Field::Mode),
            1 => vec(number, 0..4).prop_map(Field::Numbers),
        ]
    }

    /// Names, each with a value.
    fn named(fields: Vec<Field>) -> Fields {
        Fields((0..).map(|number: u32| format!("v{number}")).zip(fields).collect())
    }

    /// What a shell variable holds of it.
    fn shown(field: &Field) -> Vec<u8> {
        match field {
            Field::Number(number) => number.to_string().into_bytes(),
            Field::Mode(mode) => format!("{mode:04o}").into_bytes(),
            Field::Text(bytes) => bytes.clone(),
            Field::Numbers(numbers) => join(numbers).into_bytes(),
        }
    }

    /// The values after a shell has sourced `fields`.
    fn sourced(shell: &str, fields: &Fields) -> Vec<Vec<u8>> {
        use std::io::Write;
        let print = fields.iter().map(|(name, _)| format!("printf '%s\\0' \"${name}\"\n"));
        let script = [fields.sh(), print.collect::<String>().into_bytes()].concat();
        let mut child =
            Command::new(shell).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&script).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        let ended = output.stdout.strip_suffix(b"\0").unwrap_or_default();
        ended.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    proptest! {
        #[test]
        fn a_quoted_text_is_one_word_and_can_be_taken_back(text: Vec<u8>, other in value()) {
            for text in [text, other] {
                let mut quoted = Vec::new();
                quote(&text, &mut quoted);
                prop_assert_eq!(crate::escape::words(&quoted), Ok(vec![text]));
            }
        }

        #[test]
        fn json_holds_the_same_values(fields in vec(field(), 0..6)) {
            let fields = named(fields);
            let back: Value = serde_json::from_str(&fields.json().to_string()).unwrap();
            for (name, field) in fields.iter() {
                let number = |number: &i128, value: &Value| {
                    let text = value.as_str().map_or_else(|| value.to_string(), Into::into);
                    text == number.to_string()
                };
                let same = match (field, &back[name]) {
                    (Field::Number(one), value) => number(one, value),
                    (Field::Mode(mode), value) => *value == format!("{mode:04o}"),
                    (Field::Text(text), value) => value.as_str() == Some(&String::from_utf8_lossy(text)),
                    (Field::Numbers(all), Value::Array(values)) => {
                        all.len() == values.len() && all.iter().zip(values).all(|(one, value)| number(one, value))
                    }
                    _ => false,
                };
                prop_assert!(same, "{name}: {field:?} is {}", back[name]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
        #[test]
        fn a_shell_that_sources_the_lines_has_the_values(fields in vec(field(), 200)) {
            let fields = named(fields);
            let expected: Vec<_> = fields.iter().map(|(_, field)| shown(field)).collect();
            for shell in ["sh", "bash"] {
                prop_assert_eq!(&sourced(shell, &fields), &expected, "{}", shell);
            }
        }
    }
}
