//! What is written to a semaphore: `3`, `+1`, `-2`.

use crate::error::{Errno, Error, Result};

/// The largest value (`SEM_VALUE_MAX`).
pub const VALUE_MAX: u32 = i32::MAX as u32;

/// The longest text that is looked at.
const TEXT_MAX: usize = 4096;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets the value.
    Set(u32),
    /// Posts so many times.
    Post(u32),
    /// Takes so many, all or none.
    Take(u32),
}

/// Understands what has been written: one decimal number with or without a sign, white space around
/// it. `EINVAL` for anything else, `EOVERFLOW` for a number over [`VALUE_MAX`].
pub fn parse(text: &[u8]) -> Result<Operation> {
    let word = text.trim_ascii();
    let (operation, digits): (fn(u32) -> Operation, _) = match word {
        [b'+', digits @ ..] => (Operation::Post, digits),
        [b'-', digits @ ..] => (Operation::Take, digits),
        digits => (Operation::Set, digits),
    };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_number || text.len() > TEXT_MAX {
        return Err(Error::because(
            Errno::EINVAL,
            format!("\"{}\" is none of N, +N, -N", excerpt(text)),
        ));
    }
    // Digits that do not fit any more are too many in any case.
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    match number {
        Some(number) if number <= VALUE_MAX => Ok(operation(number)),
        _ => Err(Error::because(
            Errno::EOVERFLOW,
            format!("{} is over {VALUE_MAX}, the largest value of a semaphore", excerpt(digits)),
        )),
    }
}

/// The beginning of a text, printable.
pub fn excerpt(text: &[u8]) -> String {
    const LONG: usize = 40;
    let end = if text.len() > LONG { "..." } else { "" };
    let start = String::from_utf8_lossy(&text[..text.len().min(LONG)]);
    format!("{}{end}", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_number_with_or_without_a_sign() {
        let table: &[(&[u8], Operation)] = &[
            (b"3\n", Operation::Set(3)),
            (b"0", Operation::Set(0)),
            (b" 7 \n", Operation::Set(7)),
            (b"007\n", Operation::Set(7)),
            (b"+1\n", Operation::Post(1)),
            (b"+0", Operation::Post(0)),
            (b"-12\n", Operation::Take(12)),
            (b"-0\n", Operation::Take(0)),
            (b"2147483647", Operation::Set(VALUE_MAX)),
        ];
        for (text, operation) in table {
            assert_eq!(parse(text).unwrap(), *operation, "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = [vec![b'1'; 1 << 20], b"\n".to_vec()].concat();
        let blank = [vec![b' '; 1 << 20], b"+1\n".to_vec()].concat();
        let table: &[(&[u8], Errno)] = &[
            (b"", Errno::EINVAL),
            (b"\n", Errno::EINVAL),
            (b"abc\n", Errno::EINVAL),
            (b"+\n", Errno::EINVAL),
            (b"-\n", Errno::EINVAL),
            (b"1 2\n", Errno::EINVAL),
            (b"+ 1\n", Errno::EINVAL),
            (b"+-1\n", Errno::EINVAL),
            (b"--1\n", Errno::EINVAL),
            (b"1\n2\n", Errno::EINVAL),
            (b"0x10\n", Errno::EINVAL),
            (b"1.5\n", Errno::EINVAL),
            (b"1\0", Errno::EINVAL),
            (b"\0", Errno::EINVAL),
            (b"\xff", Errno::EINVAL),
            ("\u{661}".as_bytes(), Errno::EINVAL),
            (&long, Errno::EINVAL),
            (&blank, Errno::EINVAL),
            (b"2147483648\n", Errno::EOVERFLOW),
            (b"+4294967296\n", Errno::EOVERFLOW),
            (b"-99999999999999999999\n", Errno::EOVERFLOW),
            (b"99999999999999999999\n", Errno::EOVERFLOW),
        ];
        for (text, errno) in table {
            assert_eq!(parse(text).unwrap_err().errno(), *errno, "{:?}", excerpt(text));
        }
    }

    /// White space as it may stand around an operation.
    const BLANK: &str = "[ \\t\\n\\r]{0,3}";

    fn operation() -> impl Strategy<Value = Operation> {
        let number = prop_oneof![0..=VALUE_MAX, 0..20_u32, VALUE_MAX - 1..=VALUE_MAX];
        (0..3, number).prop_map(|(what, number)| match what {
            0 => Operation::Set(number),
            1 => Operation::Post(number),
            _ => Operation::Take(number),
        })
    }

    fn print(operation: Operation, zeros: &str) -> String {
        match operation {
            Operation::Set(number) => format!("{zeros}{number}"),
            Operation::Post(number) => format!("+{zeros}{number}"),
            Operation::Take(number) => format!("-{zeros}{number}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_understood(
            operation in operation(), zeros in "0{0,3}", before in BLANK, after in BLANK,
        ) {
            let text = format!("{before}{}{after}", print(operation, &zeros));
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), operation);
        }

        #[test]
        fn what_is_understood_is_what_is_printed(text in "[0-9+ \\n-]{0,12}|[+-]?[0-9]{8,40}|\\PC{0,9}") {
            let word = text.trim_ascii();
            let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
            let zeros = &digits[..digits.len() - digits.trim_start_matches('0').len()];
            match parse(text.as_bytes()) {
                // A zero alone is the number itself.
                Ok(operation) => prop_assert!(
                    [print(operation, zeros), print(operation, zeros.get(1..).unwrap_or(""))]
                        .iter().any(|printed| printed == word)
                ),
                Err(error) => {
                    let number = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit());
                    let expected = if number { Errno::EOVERFLOW } else { Errno::EINVAL };
                    prop_assert_eq!(error.errno(), expected);
                    let small = digits.parse().is_ok_and(|value: u64| value <= u64::from(VALUE_MAX));
                    prop_assert!(!number || !small);
                }
            }
        }

        #[test]
        fn any_bytes_are_understood_or_refused_in_one_line(text: Vec<u8>) {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
            prop_assert!(!excerpt(&text).contains(char::is_control));
        }
    }
}
