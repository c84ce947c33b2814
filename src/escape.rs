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

/// What `$'...'` stands for; returns what follows the closing quote.
fn unescape<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], &'static str> {
    loop {
        let (&byte, after) = rest.split_first().ok_or("a quote is not closed")?;
        rest = after;
        match byte {
            b'\'' => return Ok(rest),
            b'\\' => {
                let (&code, after) = rest.split_first().ok_or("a quote is not closed")?;
                rest = after;
                out.push(match code {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'x' => {
                        let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
                        let value = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
                        rest = rest.get(2..).unwrap_or_default();
                        value.ok_or("\\x is followed by two hexadecimal digits")?
                    }
                    other => other,
                });
            }
            byte => out.push(byte),
        }
    }
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
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
