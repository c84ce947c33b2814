//! Names and other bytes where they are printed for people and scripts.

use std::fmt::Write;

/// As part of a line: what would break it or the terminal is written as `\n`, `\t`, `\\` or
/// `\xHH`.
pub fn line(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                character if is_plain(character) => out.push(character),
                character => bytes(character.encode_utf8(&mut [0; 4]).as_bytes(), &mut out),
            }
        }
        bytes(chunk.invalid(), &mut out);
    }
    out
}

/// As one word of a shell's command line: as it is, in single quotes, or, with control characters
/// in it, as `$'...'` (bash, zsh, ksh).
pub fn word(text: &[u8]) -> String {
    match std::str::from_utf8(text) {
        Ok(text) if text.chars().all(is_plain) => {
            let mut quoted = Vec::new();
            crate::status::quote(text.as_bytes(), &mut quoted);
            String::from_utf8_lossy(&quoted).into_owned()
        }
        _ => dollar(text),
    }
}

/// As `$'...'`, whatever is in it.
pub fn dollar(text: &[u8]) -> String {
    format!("$'{}'", line(text).replace('\'', "\\'"))
}

fn is_plain(character: char) -> bool {
    // What reverses the direction of writing hides what a line says.
    !character.is_control()
        && !matches!(character, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn bytes(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Splits a line into words as a shell does, quotes as [`word`] writes them included: blanks
/// separate, `'...'` and `$'...'` hold them, a backslash takes the next character as it is.
///
/// The error is what is wrong with it.
pub fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' => {
                let end =
                    rest.iter().position(|byte| *byte == b'\'').ok_or("a quote is not closed")?;
                word.get_or_insert_default().extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
            }
            b'$' if rest.first() == Some(&b'\'') => {
                let into = word.get_or_insert_default();
                rest = unescape(&rest[1..], into)?;
            }
            b'\\' => {
                let (next, after) = rest.split_first().ok_or("nothing follows the backslash")?;
                word.get_or_insert_default().push(*next);
                rest = after;
            }
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    Ok(words)
}

/// What `$'...'` stands for (bash(1), QUOTING); returns what follows the closing quote.
fn unescape<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], &'static str> {
    loop {
        let (&byte, after) = rest.split_first().ok_or("a quote is not closed")?;
        rest = after;
        match byte {
            b'\'' => return Ok(rest),
            b'\\' => rest = escape(rest, out)?,
            byte => out.push(byte),
        }
    }
}

/// What a backslash and what follows it in `$'...'` stand for; returns the rest. What is none in bash
/// is refused rather than made something of.
fn escape<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], &'static str> {
    let (&code, rest) = text.split_first().ok_or("a quote is not closed")?;
    let (value, rest) = match code {
        b'a' => (0x07, rest),
        b'b' => (0x08, rest),
        b'e' | b'E' => (0x1b, rest),
        b'f' => (0x0c, rest),
        b'n' => (b'\n', rest),
        b'r' => (b'\r', rest),
        b't' => (b'\t', rest),
        b'v' => (0x0b, rest),
        b'\\' | b'\'' | b'"' | b'?' => (code, rest),
        b'0'..=b'7' => {
            let (value, rest) = number(text, 8, 3).ok_or("an octal number is expected")?;
            let value = u8::try_from(value);
            (value.map_err(|_| "an octal number above \\377 is no byte")?, rest)
        }
        b'x' => {
            let (value, rest) =
                number(rest, 16, 2).ok_or("\\x is followed by one or two hexadecimal digits")?;
            (value as u8, rest)
        }
        b'u' | b'U' => {
            let most = if code == b'u' { 4 } else { 8 };
            let found = number(rest, 16, most);
            let found = found.and_then(|(value, rest)| Some((char::from_u32(value)?, rest)));
            let (character, rest) =
                found.ok_or("\\u and \\U are followed by the hexadecimal number of a character")?;
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(rest);
        }
        _ => return Err("in $'...' a backslash is followed by one of abeEfnrtv\\'\"?0-7xuU"),
    };
    out.push(value);
    Ok(rest)
}

/// A number of up to `most` digits, and the rest.
fn number(text: &[u8], radix: u32, most: usize) -> Option<(u32, &[u8])> {
    let digit = |byte: &&u8| char::from(**byte).is_digit(radix);
    let length = text.iter().take(most).take_while(digit).count();
    let (digits, rest) = text.split_at(length);
    Some((u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(line(b"plain text"), "plain text");
        assert_eq!(line(b"a\nb\tc\\d\x1b[0m\xff"), r"a\nb\tc\\d\x1b[0m\xff");
        assert_eq!(line("ä\u{202e}".as_bytes()), r"ä\xe2\x80\xae");
    }

    #[test]
    fn what_is_written_as_a_word_is_read_as_the_same() {
        let names: &[&[u8]] = &[
            b"jobs",
            b"a b",
            b"it's",
            b"$(x)`y`\"",
            b"a\nb",
            b"\\n",
            b"\xff\xfe'",
            b"back\\slash'\n",
            "ä ö".as_bytes(),
            b"",
        ];
        for name in names {
            assert_eq!(words(word(name).as_bytes()).unwrap(), [name.to_vec()], "{}", word(name));
        }
        assert_eq!(word(b"jobs"), "jobs");
        assert_eq!(word(b"a b"), "'a b'");
        assert_eq!(word(b"a\nb'"), r"$'a\nb\''");
    }

    #[test]
    fn words_are_separated_by_blanks() {
        assert_eq!(words(b"  a\tb  c\\ d ").unwrap(), [b"a".to_vec(), b"b".into(), b"c d".into()]);
        assert_eq!(words(b"").unwrap(), Vec::<Vec<u8>>::new());
        assert!(words(b"'a").is_err() && words(b"$'a").is_err() && words(b"a\\").is_err());
        assert!(words(b"$'\\xz'").is_err() && words(b"$'\\x").is_err());
    }

    #[test]
    fn every_escape_of_bash_is_understood_and_no_other() {
        let one = |text: &str| words(format!("$'{text}'").as_bytes()).map(|words| words.concat());
        for (text, bytes) in [
            (r"\a\b\e\E\f\n\r\t\v", &b"\x07\x08\x1b\x1b\x0c\n\r\t\x0b"[..]),
            (r#"\\\'\"\?"#, b"\\'\"?"),
            (r"\1a\12\3771\08", b"\x01a\x0a\xff1\x008"),
            (r"\xag\x41f", b"\x0agAf"),
            (r"\u00e4\ue4 \U0001f600", "\u{e4}\u{e4} \u{1f600}".as_bytes()),
        ] {
            assert_eq!(one(text).as_deref(), Ok(bytes), "{text}");
        }
        for wrong in [r"\c", r"\ca", r"\z", r"\8", r"\400", r"\x", r"\u", r"\ud800", r"\ ", "\\\n"]
        {
            assert!(one(wrong).is_err(), "{wrong}");
        }
    }

    /// Bytes among which those that need an escape are frequent.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let special = prop::sample::select(b"'\"\\$`\n\t !#*x0n".to_vec());
        let byte = prop_oneof![3 => special, 1 => any::<u8>()];
        let words = "[a-z '\\n\u{e4}\u{202e}\u{7f}\u{85}]{0,8}".prop_map(String::into_bytes);
        prop_oneof![vec(byte, 0..12), words]
    }

    /// What a shell takes `words` for.
    fn by_shell(shell: &str, words: &[String]) -> Vec<Vec<u8>> {
        let script = format!("printf '%s\\0' {}", words.join(" "));
        let output = Command::new(shell).arg("-c").arg(script).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ended = output.stdout.strip_suffix(b"\0").unwrap_or_default();
        ended.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    proptest! {
        #[test]
        fn every_escape_can_be_taken_back(text in text()) {
            prop_assert_eq!(words(dollar(&text).as_bytes()), Ok(vec![text.clone()]));
            prop_assert_eq!(words(word(&text).as_bytes()), Ok(vec![text.clone()]));
            let mut back = Vec::new();
            let quoted = line(&text).replace('\'', "\\'") + "'";
            prop_assert_eq!(unescape(quoted.as_bytes(), &mut back), Ok(&b""[..]));
            prop_assert_eq!(back, text);
        }

        #[test]
        fn nothing_that_is_printed_breaks_a_line_or_hides_in_it(text in text()) {
            for printed in [line(&text), word(&text), dollar(&text)] {
                let direction = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
                let hidden = |character: &char| direction.clone().any(|other| other == *character);
                prop_assert!(!printed.contains(char::is_control), "{printed:?}");
                prop_assert_eq!(printed.chars().find(hidden), None);
            }
        }

        #[test]
        fn words_are_put_together_and_taken_apart(
            texts in vec(text(), 0..5), blank in "[ \\t]{1,3}", dollars: bool,
        ) {
            let quote = if dollars { dollar } else { word };
            let parts: Vec<_> = texts.iter().map(|text| quote(text)).collect();
            let line = format!("{blank}{}{blank}", parts.join(&blank));
            prop_assert_eq!(words(line.as_bytes()), Ok(texts));
        }

        #[test]
        fn every_spelling_of_a_word_is_that_word(text in text(), ways in vec(0..3, 12)) {
            // Each byte in another way; the shell takes a newline by a backslash for nothing.
            let mut spelled = Vec::new();
            for (byte, way) in text.iter().zip(ways.iter().chain(std::iter::repeat(&0))) {
                match (way, byte) {
                    (1, byte) if *byte != b'\n' => spelled.extend([b'\\', *byte]),
                    (2, byte) if *byte != b'\'' => spelled.extend([b'\'', *byte, b'\'']),
                    (_, byte) => spelled.extend(dollar(&[*byte]).into_bytes()),
                }
            }
            let expected = if text.is_empty() { vec![] } else { vec![text] };
            prop_assert_eq!(words(&spelled), Ok(expected));
        }

        #[test]
        fn any_bytes_are_words_or_refused(line in text(), other: Vec<u8>) {
            for line in [line, other] {
                let escapes = line.iter().any(|byte| b" \t'\\$".contains(byte));
                match words(&line) {
                    // What has nothing special in it is one word, as it is.
                    Ok(words) if !escapes => prop_assert_eq!(words.concat(), line),
                    Ok(words) => prop_assert!(words.iter().all(|word| word.len() <= line.len())),
                    Err(what) => prop_assert!(escapes && !what.is_empty()),
                }
            }
        }
    }

    /// What bash's `printf %q` makes of texts.
    fn quoted_by_bash(locale: &str, texts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt;
        let mut command = Command::new("bash");
        command.env("LC_ALL", locale).args(["-c", "printf '%q\\0' \"$@\"", "bash"]);
        let output = command.args(texts.iter().map(|text| std::ffi::OsStr::from_bytes(text)));
        let output = output.output().unwrap().stdout;
        output.split(|byte| *byte == 0).take(texts.len()).map(<[u8]>::to_vec).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
        #[test]
        fn what_bash_quotes_is_the_same(texts in vec(text(), 100)) {
            let texts: Vec<Vec<u8>> =
                texts.into_iter().map(|text| text.into_iter().filter(|byte| *byte != 0).collect()).collect();
            for locale in ["C", "C.UTF-8"] {
                for (quoted, text) in quoted_by_bash(locale, &texts).iter().zip(&texts) {
                    let shown = String::from_utf8_lossy(quoted);
                    prop_assert_eq!(words(quoted), Ok(vec![text.clone()]), "{}", shown);
                }
            }
        }

        #[test]
        fn bash_takes_a_word_for_the_same(texts in vec(text(), 100)) {
            // No name and no argument has a NUL in it.
            let texts: Vec<Vec<u8>> =
                texts.into_iter().map(|text| text.into_iter().filter(|byte| *byte != 0).collect()).collect();
            for quote in [word, dollar] {
                let words: Vec<_> = texts.iter().map(|text| quote(text)).collect();
                prop_assert_eq!(&by_shell("bash", &words), &texts);
            }
        }
    }
}
