//! What is written to a set: `0 -1, 1 +2`, `= 1 0 3`, `2 = 5`.

use crate::error::{Errno, Error, Result};

/// The largest value (`SEMVMX`).
pub const VALUE_MAX: u16 = 32767;

/// The longest text that is looked at: more values than the largest set has by default (32000), and
/// more operations than the kernel has ever taken.
const TEXT_MAX: usize = 256 * 1024;

/// An operation on one semaphore of a set (semop(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which one.
    pub index: u16,
    /// What is added; 0 waits for zero.
    pub change: i16,
}

/// What is to be done, all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `semop(2)`.
    Operate(Vec<Step>),
    /// Sets all values (`SETALL`).
    SetAll(Vec<u16>),
    /// Sets one (`SETVAL`).
    SetOne(u16, u16),
}

/// Understands what has been written.
///
/// `EINVAL` for what is none of the above, `ERANGE` for a number that no value can have, `EFBIG`
/// for an index that no set can have, `E2BIG` for a text that holds more than any set takes.
pub fn parse(text: &[u8]) -> Result<Operation> {
    if text.len() > TEXT_MAX {
        return Err(Error::because(
            Errno::E2BIG,
            format!("an operation of {} bytes is over {TEXT_MAX}", text.len()),
        ));
    }
    let text = std::str::from_utf8(text).map_err(|_| invalid())?;
    let text = text.trim_ascii();
    match text.split_once('=') {
        Some((index, values)) => match (index.trim_ascii(), words(values)) {
            ("", values) if !values.is_empty() && !values.contains(&"") => {
                Ok(Operation::SetAll(values.into_iter().map(value).collect::<Result<_>>()?))
            }
            (index, values) => match values[..] {
                [one] => {
                    // As semctl(2) says, where semop(2) says EFBIG.
                    let index = self::index(index, Errno::EINVAL)?;
                    Ok(Operation::SetOne(index, value(one)?))
                }
                _ => Err(invalid()),
            },
        },
        None => steps(text),
    }
}

/// `INDEX OP` separated by commas or newlines; empty lines do no harm.
fn steps(text: &str) -> Result<Operation> {
    let lines = text.split('\n').filter(|line| !line.trim_ascii().is_empty());
    let steps: Vec<_> = lines.flat_map(|line| line.split(',')).map(step).collect::<Result<_>>()?;
    if steps.is_empty() { Err(invalid()) } else { Ok(Operation::Operate(steps)) }
}

fn step(text: &str) -> Result<Step> {
    let [at, operation] = words(text)[..] else { return Err(invalid()) };
    let amount = |digits| match number(digits)? {
        // Zero is another operation, so it is no amount.
        Some(0) => Err(invalid()),
        Some(amount) if amount <= u64::from(VALUE_MAX) => Ok(amount as i16),
        _ => Err(out_of_range(digits)),
    };
    let change = match (operation.strip_prefix('+'), operation.strip_prefix('-')) {
        (Some(digits), _) => amount(digits)?,
        (_, Some(digits)) => -amount(digits)?,
        _ if operation == "0" => 0,
        _ => return Err(invalid()),
    };
    Ok(Step { index: index(at, Errno::EFBIG)?, change })
}

fn words(text: &str) -> Vec<&str> {
    text.split([' ', '\t']).filter(|word| !word.is_empty()).collect()
}

/// A decimal number; `None` for one that is too large for anything.
fn number(digits: &str) -> Result<Option<u64>> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(invalid());
    }
    Ok(digits.parse().ok())
}

/// An index; one that no set can have is `errno`.
fn index(digits: &str, errno: Errno) -> Result<u16> {
    let index = number(digits)?.and_then(|index| u16::try_from(index).ok());
    index.ok_or_else(|| {
        let sentence = format!("there is no semaphore {}: no set has so many", shown(digits));
        Error::because(errno, sentence)
    })
}

fn value(digits: &str) -> Result<u16> {
    match number(digits)? {
        Some(value) if value <= u64::from(VALUE_MAX) => Ok(value as u16),
        _ => Err(out_of_range(digits)),
    }
}

fn invalid() -> Error {
    Error::because(
        Errno::EINVAL,
        "expected INDEX OP, separated by commas, OP being +N, -N or 0; or = V V V; or INDEX = V",
    )
}

fn out_of_range(digits: &str) -> Error {
    let sentence = format!("{} is over {VALUE_MAX}, the largest value", shown(digits));
    Error::because(Errno::ERANGE, sentence)
}

fn shown(digits: &str) -> String {
    digits.get(..40).map_or_else(|| digits.into(), |start| format!("{start}..."))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn operate(steps: &[(u16, i16)]) -> Operation {
        let step = |&(index, change): &(u16, i16)| Step { index, change };
        Operation::Operate(steps.iter().map(step).collect())
    }

    #[test]
    fn every_form_is_understood() {
        let table: &[(&str, Operation)] = &[
            ("0 -1, 1 +2\n", operate(&[(0, -1), (1, 2)])),
            ("0 -1\n1 0\n", operate(&[(0, -1), (1, 0)])),
            ("\n 3\t+32767 ,\t4 -32767\n\n", operate(&[(3, 32767), (4, -32767)])),
            ("65535 +1", operate(&[(65535, 1)])),
            ("0 +1,0 +1", operate(&[(0, 1), (0, 1)])),
            ("= 1 0 3\n", Operation::SetAll(vec![1, 0, 3])),
            ("=7", Operation::SetAll(vec![7])),
            ("2 = 5\n", Operation::SetOne(2, 5)),
            ("2=0", Operation::SetOne(2, 0)),
        ];
        for (text, operation) in table {
            assert_eq!(parse(text.as_bytes()).unwrap(), *operation, "{text:?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let table: &[(&str, Errno)] = &[
            ("", Errno::EINVAL),
            ("\n\n", Errno::EINVAL),
            ("abc", Errno::EINVAL),
            ("+", Errno::EINVAL),
            ("-", Errno::EINVAL),
            ("1", Errno::EINVAL),
            ("+1", Errno::EINVAL),
            ("1 2", Errno::EINVAL),
            ("0 +", Errno::EINVAL),
            ("0 + 1", Errno::EINVAL),
            ("0 +0", Errno::EINVAL),
            ("0 -0", Errno::EINVAL),
            ("0 +-1", Errno::EINVAL),
            ("0 -1,", Errno::EINVAL),
            (",0 -1", Errno::EINVAL),
            ("0 -1,,1 +1", Errno::EINVAL),
            ("0 -1 1 +1", Errno::EINVAL),
            ("-1 +1", Errno::EINVAL),
            ("0 -1\0", Errno::EINVAL),
            ("=", Errno::EINVAL),
            ("= a", Errno::EINVAL),
            ("= 1,2", Errno::EINVAL),
            ("= -1", Errno::EINVAL),
            ("= 1\n= 2", Errno::EINVAL),
            ("1 =", Errno::EINVAL),
            ("1 = 2 3", Errno::EINVAL),
            ("0 = 1, 1 = 2", Errno::EINVAL),
            ("x = 1", Errno::EINVAL),
            ("0 = 1 = 2", Errno::EINVAL),
            ("0 +1, 1 = 2", Errno::EINVAL),
            ("65536 +1", Errno::EFBIG),
            ("65536 = 9", Errno::EINVAL),
            ("99999999999999999999 +1", Errno::EFBIG),
            ("0 +32768", Errno::ERANGE),
            ("0 -99999999999999999999", Errno::ERANGE),
            ("= 1 32768", Errno::ERANGE),
            ("0 = 99999999999999999999", Errno::ERANGE),
        ];
        for (text, errno) in table {
            assert_eq!(parse(text.as_bytes()).unwrap_err().errno(), *errno, "{text:?}");
        }
        assert_eq!(parse(b"0 \xff1").unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(parse(&vec![b' '; 1 << 20]).unwrap_err().errno(), Errno::E2BIG);
    }

    #[test]
    fn the_largest_set_can_be_set_at_once() {
        let text = format!("= {}", vec!["32767"; 32_000].join(" "));
        let Operation::SetAll(values) = parse(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(values.len(), 32_000);
    }

    #[test]
    fn five_hundred_and_one_operations_are_left_to_the_kernel_to_refuse() {
        let text = vec!["0 +1"; 501].join(",");
        let Operation::Operate(steps) = parse(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(steps.len(), 501);
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let most = VALUE_MAX as i16;
        let change = prop_oneof![-most..=most, -2..3_i16];
        let step = (any::<u16>(), change).prop_map(|(index, change)| Step { index, change });
        let value = 0..=VALUE_MAX;
        prop_oneof![
            vec(step, 1..6).prop_map(Operation::Operate),
            vec(value.clone(), 1..6).prop_map(Operation::SetAll),
            (any::<u16>(), value).prop_map(|(index, value)| Operation::SetOne(index, value)),
        ]
    }

    /// Prints with these blanks between words, and this between operations.
    fn print(operation: &Operation, blank: &str, separator: &str, zeros: &str) -> String {
        match operation {
            Operation::Operate(steps) => {
                let step = |&Step { index, change }: &Step| match change {
                    0 => format!("{zeros}{index}{blank}0"),
                    1.. => format!("{zeros}{index}{blank}+{zeros}{change}"),
                    _ => format!("{zeros}{index}{blank}-{zeros}{}", change.unsigned_abs()),
                };
                steps.iter().map(step).collect::<Vec<_>>().join(separator)
            }
            Operation::SetAll(values) => {
                let value = |value: &u16| format!("{blank}{zeros}{value}");
                format!("={}", values.iter().map(value).collect::<String>())
            }
            Operation::SetOne(index, value) => {
                format!("{zeros}{index}{blank}={blank}{zeros}{value}")
            }
        }
    }

    /// As `echo` would have it.
    fn plainly(operation: &Operation) -> String {
        print(operation, " ", ", ", "")
    }

    proptest! {
        #[test]
        fn what_is_printed_is_understood_with_any_blanks(
            operation in operation(), blank in "[ \\t]{1,3}", zeros in "0{0,3}",
            separator in "[ \\t]{0,2}(,|\\n+)[ \\t]{0,2}", end in "\\n{0,2}",
        ) {
            let text = print(&operation, &blank, &separator, &zeros) + &end;
            prop_assert_eq!(&parse(text.as_bytes()).unwrap(), &operation, "{:?}", text);
        }

        #[test]
        fn what_is_understood_can_be_printed(text in "[0-3+,= \\n-]{0,16}|([0-9]{1,6} [+-]?[0-9]{1,6}[,\\n]){0,3}|[0-9]{0,2} ?=( [0-9]{4,5}){1,2}|\\PC{0,9}") {
            match parse(text.as_bytes()) {
                Ok(operation) => {
                    prop_assert_eq!(&parse(plainly(&operation).as_bytes()).unwrap(), &operation);
                    let values = match &operation {
                        Operation::SetAll(values) => values.clone(),
                        Operation::SetOne(_, value) => vec![*value],
                        Operation::Operate(steps) => steps.iter().map(|step| step.change.unsigned_abs()).collect(),
                    };
                    prop_assert!(values.iter().all(|value| *value <= VALUE_MAX));
                    // Nothing has been added or left out: the numbers are those of the text.
                    let numbers = |text: &str| -> Vec<u64> {
                        let words = text.split(|other: char| !other.is_ascii_digit());
                        words.filter_map(|digits| digits.parse().ok()).collect()
                    };
                    prop_assert_eq!(numbers(&plainly(&operation)), numbers(&text));
                }
                Err(error) => prop_assert!(
                    matches!(error.errno(), Errno::EINVAL | Errno::EFBIG | Errno::ERANGE)
                ),
            }
        }

        #[test]
        fn a_character_too_many_is_refused(
            operation in operation(), place: prop::sample::Index, wrong in "[a-z;:.()\\x00\u{661}]",
        ) {
            let mut text = plainly(&operation);
            text.insert_str(place.index(text.len() + 1), &wrong);
            prop_assert_eq!(parse(text.as_bytes()).unwrap_err().errno(), Errno::EINVAL);
        }

        #[test]
        fn any_bytes_are_understood_or_refused_in_one_line(text: Vec<u8>) {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
}
