//! The names of System V objects.
//!
//! | name | stands for |
//! | --- | --- |
//! | `0x000004d2` | the object of that key; so it is listed |
//! | `0x4d2`, `0x4D2` | the same: `0x` and one to eight hexadecimal digits |
//! | `1234` | the same: decimal, without leading zeros, up to 4294967295 |
//! | `-1` | the same as `0xffffffff`: a `key_t` is a signed number in C, down to -2147483648 |
//! | `id-7` | the object whose identifier is 7, whether it has a key or not; so one without is listed |
//! | `jobs` | a symbolic link in the same directory to one of the keys above (`links.rs`) |
//!
//! Anything else is no name (`ENOENT`) and cannot be made (`EINVAL`): the key 0 in any spelling,
//! which is `IPC_PRIVATE` and finds nothing; `0X4d2`; nine or more hexadecimal digits; `01234`,
//! which C would take for octal; a sign `+`, `-0`, blanks anywhere, numbers that 32 bits do not
//! hold. `id-N` cannot be made either, since the kernel gives identifiers out. What begins like a key
//! or an identifier ([`looks_like_one`]) is no name for a link (`EINVAL`).

use crate::number::decimal;

/// What a name in one of the directories stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The object of this key, which is not 0.
    Key(i32),
    /// The object of this identifier.
    Id(i32),
}

impl Name {
    /// Understands a name as the module's documentation has it; `None` for anything else.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        if let Some(id) = text.strip_prefix("id-") {
            return i32::try_from(canonical(id)?).ok().map(Self::Id);
        }
        let key = if let Some(digits) = text.strip_prefix("0x") {
            let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            if digits.len() > 8 || !hexadecimal {
                return None;
            }
            u32::from_str_radix(digits, 16).ok()?
        } else if let Some(digits) = text.strip_prefix('-') {
            0_i32.checked_sub_unsigned(canonical(digits)?)? as u32
        } else {
            canonical(text)?
        };
        (key != 0).then_some(Self::Key(key as i32))
    }
}

/// Whether a name might be taken for a key or an identifier, be it one or not: it begins with a
/// digit, a sign and a digit, a blank, or `id-`. No link has such a name, so that a slip in writing a
/// key never finds another object.
pub fn looks_like_one(name: &[u8]) -> bool {
    match name {
        [b'0'..=b'9', ..] | [b'+' | b'-', b'0'..=b'9', ..] => true,
        [first, ..] if first.is_ascii_whitespace() || *first == b'\x0b' => true,
        _ => name.starts_with(b"id-"),
    }
}

/// A decimal number in its one spelling.
fn canonical(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with('0');
    decimal(text).filter(|_| canonical)?.try_into().ok()
}

/// How an object is listed.
pub fn name_of(key: i32, id: i32) -> String {
    if key == 0 { format!("id-{id}") } else { format!("0x{key:08x}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_key_is_taken_or_refused_as_documented() {
        let key = |key: u32| Some(Name::Key(key as i32));
        let table: &[(&str, Option<Name>)] = &[
            ("0x000004d2", key(1234)),
            ("0x4d2", key(1234)),
            ("0x4D2", key(1234)),
            ("0x04d2", key(1234)),
            ("1234", key(1234)),
            ("1", key(1)),
            ("0xffffffff", key(0xffff_ffff)),
            ("0xFFFFFFFF", key(0xffff_ffff)),
            ("4294967295", key(0xffff_ffff)),
            ("-1", key(0xffff_ffff)),
            ("0x80000000", key(0x8000_0000)),
            ("2147483648", key(0x8000_0000)),
            ("-2147483648", key(0x8000_0000)),
            ("id-0", Some(Name::Id(0))),
            ("id-7", Some(Name::Id(7))),
            ("id-2147483647", Some(Name::Id(i32::MAX))),
            // The key 0 is no key.
            ("0", None),
            ("-0", None),
            ("0x0", None),
            ("0x00000000", None),
            ("", None),
            ("0x", None),
            ("0X4d2", None),
            ("0x0000004d2", None),
            ("0x1ffffffff", None),
            ("0x4g2", None),
            ("0x+4d", None),
            ("0x-1", None),
            ("4d2", None),
            ("01234", None),
            ("-01", None),
            ("+1234", None),
            ("--1", None),
            ("-", None),
            (" 1234", None),
            ("1234 ", None),
            ("12 34", None),
            ("\t1", None),
            ("1234\n", None),
            ("4294967296", None),
            ("-2147483649", None),
            ("99999999999999999999", None),
            ("-0x1", None),
            ("id-", None),
            ("id-07", None),
            ("id--1", None),
            ("id-0x7", None),
            ("id-2147483648", None),
            ("ID-7", None),
            ("jobs", None),
            ("١٢٣", None),
        ];
        for (name, expected) in table {
            assert_eq!(Name::parse(name.as_bytes()), *expected, "{name:?}");
        }
        assert_eq!(Name::parse(b"\xff"), None);
    }

    #[test]
    fn what_might_be_taken_for_a_key_is_no_name_for_a_link() {
        let alike = [
            "0",
            "0x",
            "+5",
            "-5",
            " 5",
            "\t5",
            "0X5",
            "0x123456789",
            "007",
            "5jobs",
            "id-",
            "id-x",
        ];
        for name in alike {
            assert!(looks_like_one(name.as_bytes()), "{name:?}");
        }
        for name in ["jobs", "x0", "-", "+", "--5", "-x", "id", "idle", "Id-5", "_5", "j 5"] {
            assert!(!looks_like_one(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn what_is_listed_is_understood() {
        for (key, id) in [(1234, 7), (-1, 7), (i32::MIN, 0), (0, 7)] {
            let expected = if key == 0 { Name::Id(id) } else { Name::Key(key) };
            assert_eq!(Name::parse(name_of(key, id).as_bytes()), Some(expected));
        }
        assert_eq!(name_of(1234, 7), "0x000004d2");
        assert_eq!(name_of(0, 7), "id-7");
    }

    /// The ways to write a key.
    fn spellings(key: i32) -> impl Strategy<Value = String> {
        let key = key as u32;
        let width = format!("{key:x}").len()..=8;
        let hexadecimal = (width, any::<bool>()).prop_map(move |(width, large)| match large {
            true => format!("0x{key:0width$X}"),
            false => format!("0x{key:0width$x}"),
        });
        let signed = (key as i32).to_string();
        prop_oneof![hexadecimal, Just(key.to_string()), Just(signed)]
    }

    fn keys() -> impl Strategy<Value = i32> {
        prop_oneof![any::<i32>(), -9..10_i32, Just(i32::MIN), Just(i32::MAX)]
            .prop_filter("0 is no key", |key| *key != 0)
    }

    proptest! {
        #[test]
        fn all_spellings_of_a_key_agree((key, text) in keys().prop_flat_map(|key| (Just(key), spellings(key)))) {
            prop_assert_eq!(Name::parse(text.as_bytes()), Some(Name::Key(key)));
        }

        #[test]
        fn a_name_that_is_listed_is_the_objects(key in keys(), id in 0..=i32::MAX) {
            prop_assert_eq!(Name::parse(name_of(key, id).as_bytes()), Some(Name::Key(key)));
            prop_assert_eq!(Name::parse(name_of(0, id).as_bytes()), Some(Name::Id(id)));
        }

        #[test]
        fn nothing_else_is_a_name(text in "(id-|-)?0{0,2}[0-9]{1,10}|(id-|0x|0X|-|\\+)?[0-9a-fA-F]{0,11}[ \n]?|\\PC{0,12}") {
            let alone = |digits: &str| !digits.starts_with(['+', '-']);
            match Name::parse(text.as_bytes()) {
                None => {}
                Some(Name::Id(id)) => prop_assert_eq!(text, format!("id-{id}")),
                Some(Name::Key(key)) => {
                    prop_assert_ne!(key, 0);
                    let unsigned = key as u32;
                    let hexadecimal = text.strip_prefix("0x").filter(|digits| {
                        alone(digits)
                            && digits.len() <= 8
                            && u32::from_str_radix(digits, 16) == Ok(unsigned)
                    });
                    let decimal = text == unsigned.to_string() || text == key.to_string();
                    prop_assert!(hexadecimal.is_some() || decimal, "{text:?} is {key}");
                }
            }
        }

        #[test]
        fn any_bytes_are_a_name_or_none(name: Vec<u8>) {
            if let Some(Name::Key(key)) = Name::parse(&name) {
                prop_assert_ne!(key, 0);
            }
        }
    }
}
