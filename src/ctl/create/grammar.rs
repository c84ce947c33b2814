//! What a line of `create` looks like.
//!
//! ```text
//! mq/jobs maxmsg=100 msgsize=512 mode=0660
//! shm/buf size=1M
//! sysv/sem/0x99 nsems=4
//! # a comment
//! ```
//!
//! The first word is the path, the others are attributes: `mode=`, octal, and those of the kind
//! ([`Profile::attributes`]), numbers with `K`, `M`, `G` or `T` for powers of 1024; of one that is
//! given twice, the last counts. Words are quoted as in a shell ([`escape::words`]), as bash's
//! `printf %q` and `ctl/summary` print them.

use crate::error::{Errno, Error, Result};
use crate::escape;
use crate::kind::{Attributes, Profile};
use crate::number;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The place of the kind among those that there are.
    pub kind: usize,
    /// The object's name.
    pub name: Vec<u8>,
    /// Its permission bits, if they are given.
    pub mode: Option<u32>,
    /// What else is given.
    pub attributes: Attributes,
}

/// Understands a line, which does not hold its newline; `None` for a blank one and for a comment.
///
/// `EINVAL` for what is none, `ENAMETOOLONG` for a name of more than 255 bytes.
pub fn parse(
    line: &[u8],
    profiles: impl Iterator<Item = &'static Profile> + Clone,
) -> Result<Option<Order>> {
    if line.trim_ascii_start().starts_with(b"#") {
        return Ok(None);
    }
    let words = match escape::words(line) {
        Ok(words) => words,
        Err(what) => return wrong(what),
    };
    if words.iter().any(|word| word.contains(&0)) {
        return wrong("there is a NUL in it");
    }
    let Some((path, words)) = words.split_first() else { return Ok(None) };
    let (kind, profile, name) = split(profiles, path)?;
    let (mode, attributes) = attributes(profile, words)?;
    Ok(Some(Order { kind, name: name.to_vec(), mode, attributes }))
}

/// Whether this can become a line by what is added to its end: fails with what is wrong with it if
/// not, whatever may come.
#[allow(clippy::needless_pass_by_value)] // As for `parse`.
pub fn may_become(
    line: &[u8],
    profiles: impl Iterator<Item = &'static Profile> + Clone,
) -> Result<()> {
    let parse = |line: &[u8]| parse(line, profiles.clone());
    let Err(error) = parse(line) else { return Ok(()) };
    // A quote may still be closed, or opened.
    let Some(words) = escape::words(line).ok().filter(|_| !line.ends_with(b"$")) else {
        return Ok(());
    };
    let ended = line.last().is_none_or(|byte| b" \t".contains(byte));
    let Some(last) = words.last().filter(|_| !ended) else { return Err(error) };
    let rest = |whole: String, then: &str| {
        Some([whole.as_bytes().strip_prefix(&last[..])?, then.as_bytes()].concat())
    };
    let paths = profiles.clone().filter_map(|profile| rest(format!("{}/", profile.path), "x"));
    let names = profiles.clone().flat_map(|profile| profile.attributes.iter().copied());
    let names = names.chain(["mode"]).filter_map(|name| rest(format!("{name}="), "0"));
    let mut more = [b"x".to_vec(), b"0".to_vec()].into_iter().chain(paths).chain(names);
    let is_line = |more: Vec<u8>| parse(&[line, &more].concat()).is_ok();
    if more.any(is_line) { Ok(()) } else { Err(error) }
}

fn wrong<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::because(Errno::EINVAL, what.to_string()))
}

/// The kind that a path names, and the name in it.
fn split(
    profiles: impl Iterator<Item = &'static Profile> + Clone,
    path: &[u8],
) -> Result<(usize, &'static Profile, &[u8])> {
    for (kind, profile) in profiles.clone().enumerate() {
        let rest = path.strip_prefix(profile.path.as_bytes());
        let Some(name) = rest.and_then(|rest| rest.strip_prefix(b"/")) else { continue };
        if name.len() > 255 {
            return Err(Error::because(
                Errno::ENAMETOOLONG,
                format!("the name has {} bytes; 255 are the most", name.len()),
            ));
        }
        if name.contains(&b'/') || matches!(name, b"" | b"." | b"..") {
            return wrong(format!("\"{}\" is no name", escape::line(name)));
        }
        return Ok((kind, profile, name));
    }
    let known: Vec<_> = profiles.map(|profile| format!("{}/", profile.path)).collect();
    wrong(format!("\"{}\" is in none of {}", escape::line(path), known.join(", ")))
}

/// The mode and the attributes of a kind.
fn attributes(profile: &'static Profile, words: &[Vec<u8>]) -> Result<(Option<u32>, Attributes)> {
    let (mut mode, mut attributes) = (None, Attributes::default());
    for word in words {
        let shown = escape::line(word);
        let text = std::str::from_utf8(word).unwrap_or_default();
        let Some((name, value)) = text.split_once('=') else {
            return wrong(format!("\"{shown}\" is not NAME=VALUE"));
        };
        if name == "mode" {
            let octal =
                !value.is_empty() && value.bytes().all(|digit| (b'0'..b'8').contains(&digit));
            mode = u32::from_str_radix(value, 8).ok().filter(|mode| octal && *mode <= 0o777);
            if mode.is_none() {
                return wrong(format!("\"{shown}\": a mode is octal, 0 to 0777"));
            }
            continue;
        }
        let Some(known) = profile.attributes.iter().find(|known| **known == name) else {
            let mut known = vec!["mode"];
            known.extend(profile.attributes);
            let (path, known) = (profile.path, known.join(", "));
            return wrong(format!("\"{shown}\": the attributes of {path} are {known}"));
        };
        match number::size(value) {
            Some(value) => attributes.set(known, value),
            None => return wrong(format!("\"{shown}\": that is no number (123, 64K, 1M)")),
        }
    }
    Ok((mode, attributes))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::kind::KINDS;

    fn understood(line: &[u8]) -> Result<Option<Order>> {
        parse(line, KINDS.iter())
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let special = prop::sample::select(b" '\\\n\t#=$.\xff".to_vec());
        let byte = prop_oneof![special, any::<u8>()];
        vec(byte, 1..20).prop_filter("no name", |name| {
            !name.contains(&b'/') && !name.contains(&0) && !matches!(&name[..], b"." | b"..")
        })
    }

    /// An order for an object of any kind with any of its attributes.
    fn order() -> impl Strategy<Value = Order> {
        (0..KINDS.len()).prop_flat_map(|kind| {
            let most = KINDS[kind].attributes.len();
            let given = if most == 0 {
                Just(vec![]).boxed()
            } else {
                vec((0..most, any::<u64>()), 0..4).boxed()
            };
            (name(), prop::option::of(0..=0o777_u32), given).prop_map(move |(name, mode, given)| {
                let mut attributes = Attributes::default();
                given.into_iter().for_each(|(which, value)| {
                    attributes.set(KINDS[kind].attributes[which], value);
                });
                Order { kind, name, mode, attributes }
            })
        })
    }

    /// A number with the largest unit that it is a multiple of, or without.
    fn with_unit(number: u64, unit: bool) -> String {
        let fits = |shift: u32| unit && number > 0 && number.trailing_zeros() >= shift;
        let found = [(40, 'T'), (30, 'g'), (20, 'M'), (10, 'k')]
            .into_iter()
            .find(|(shift, _)| fits(*shift));
        found.map_or_else(
            || number.to_string(),
            |(shift, unit)| format!("{}{unit}", number >> shift),
        )
    }

    fn print(order: &Order, quote: fn(&[u8]) -> String, blank: &str, unit: bool) -> String {
        let path = [KINDS[order.kind].path.as_bytes(), b"/", &order.name].concat();
        let mut words = vec![quote(&path)];
        words.extend(order.mode.map(|mode| quote(format!("mode={mode:04o}").as_bytes())));
        let attribute = |(name, value): (&str, u64)| format!("{name}={}", with_unit(value, unit));
        words.extend(order.attributes.iter().map(attribute));
        words.join(blank)
    }

    proptest! {
        #[test]
        fn what_is_printed_is_understood(
            order in order(), blank in "[ \\t]{1,3}", before in "[ \\t]{0,2}", unit: bool, dollars: bool,
        ) {
            let quote = if dollars { escape::dollar } else { escape::word };
            let line = format!("{before}{}{before}", print(&order, quote, &blank, unit));
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(understood(line.as_bytes()).unwrap(), Some(order), "{}", line);
        }

        #[test]
        fn every_beginning_of_a_line_may_become_one(order in order(), unit: bool, dollars: bool) {
            let quote = if dollars { escape::dollar } else { escape::word };
            let line = print(&order, quote, " ", unit);
            for end in 0..=line.len() {
                let begun = &line.as_bytes()[..end];
                prop_assert!(may_become(begun, KINDS.iter()).is_ok(), "{}", String::from_utf8_lossy(begun));
            }
        }

        #[test]
        fn what_may_not_become_a_line_does_not(
            begun in "(m|mq|fifo|jobs)?/?[a. ]{0,3}( (mode|max|maxmsg|x)=?[0-9K]{0,3}){0,2} ?",
            more in "[a-z0-9=/ .K]{0,8}",
        ) {
            if let Err(error) = may_become(begun.as_bytes(), KINDS.iter()) {
                prop_assert!(understood(format!("{begun}{more}").as_bytes()).is_err(), "{begun}|{more}: {error}");
            }
        }

        #[test]
        fn what_is_understood_can_be_printed(line in "(mq|shm|sysv/sem)/[a. '\\\\=-]{1,4}( (mode|size|maxmsg|nsems)=[0-9+KM]{1,4}){0,2}|\\PC{0,20}") {
            match understood(line.as_bytes()) {
                Ok(Some(order)) => {
                    let printed = print(&order, escape::word, " ", false);
                    prop_assert_eq!(understood(printed.as_bytes()).unwrap(), Some(order));
                }
                Ok(None) => prop_assert!(line.trim().is_empty() || line.trim_start().starts_with('#')),
                Err(error) => {
                    prop_assert_eq!(error.errno(), Errno::EINVAL);
                    prop_assert!(!error.to_string().contains(char::is_control));
                }
            }
        }

        #[test]
        fn an_order_with_something_wrong_is_none(
            order in order(),
            wrong in prop::sample::select(vec![
                "mode=8", "mode=01000", "mode=", "mode=+7", "mode=u+r", "x", "=", "=1", "x=1", "size=-1",
                "size=+1", "size=1KK", "size=", "maxmsg= 1", "nsems=0x10", "value=99999999999999999999",
                "'", "$'", "$'\\x", "\\", "$'\\z'", "\0", "$'\\0'",
            ]),
            first: bool,
        ) {
            let order = print(&order, escape::word, " ", false);
            let line = if first { format!("{wrong} {order}") } else { format!("{order} {wrong}") };
            // A quote or backslash at the beginning takes in what follows it; that is wrong, too.
            prop_assert_eq!(understood(line.as_bytes()).unwrap_err().errno(), Errno::EINVAL, "{}", line);
        }

        #[test]
        fn any_bytes_are_understood_or_refused(line: Vec<u8>, end: Vec<u8>) {
            let _ = understood(&line);
            let _ = understood(&[b"mq/a ", &end[..]].concat());
            let _ = understood(&[b"mq/a maxmsg=", &end[..]].concat());
        }
    }
}
