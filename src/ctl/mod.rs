//! The files at the top of ctl/: what is about all objects, or about the daemon.

pub mod create;
pub mod limits;
mod listing;
mod metrics;
mod orphans;
mod summary;

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Errno, Error, Result, fail};
use crate::kind::control::{json_text, slow};
use crate::kind::{Kind, Profile};
use crate::monitor::{self, Failure};
use crate::vfs::{Attr, Change, Cx, How, Item, Object, Opened, TEXT_SIZE};

/// The kinds and what is known about them, in the order in which they are listed.
pub type Kinds = Arc<[OneKind]>;

/// A kind.
type OneKind = (&'static Profile, Arc<dyn Kind>);

/// The files, in the order in which they are listed.
pub fn entries(kinds: &Kinds) -> Vec<(&'static str, Item)> {
    let report = |name, show: Show| {
        let report = Report { kinds: Arc::clone(kinds), show };
        (name, Item::Object(Arc::new(report) as _))
    };
    let create = create::Create::new(Arc::clone(kinds));
    vec![
        ("create", Item::Object(Arc::new(create) as _)),
        report("limits", |kinds, cx| Ok(limits::fields(kinds, cx.caller).sh())),
        report("limits.json", |kinds, cx| Ok(json_text(&limits::fields(kinds, cx.caller).json()))),
        report("summary", |kinds, cx| Ok(summary::text(kinds, cx.caller))),
        report("summary.json", |kinds, cx| Ok(summary::json(kinds, cx.caller))),
        report("orphans", |kinds, _| Ok(orphans::text(&orphans::find(kinds)?))),
        report("orphans.json", |kinds, _| Ok(orphans::json(&orphans::find(kinds)?))),
        report("errors", |_, cx| Ok(errors(&monitor::get().failures(cx.caller.uid)))),
        report("metrics", |kinds, cx| metrics::text(kinds, cx.caller)),
    ]
}

type Show = fn(&Kinds, &Cx) -> Result<Vec<u8>>;

/// A text about all objects, made by a worker when it is opened.
struct Report {
    kinds: Kinds,
    show: Show,
}

impl Object for Report {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr { size: TEXT_SIZE, blocks: TEXT_SIZE / 512, ..Attr::file(0, 0o444) })
    }

    fn change(&self, _cx: &Cx, _change: &Change) -> Result<()> {
        fail(Errno::EPERM)
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        if how.write {
            return Err(Error::because(Errno::EACCES, "this is to be read"));
        }
        slow(cx, |cx| (self.show)(&self.kinds, cx))
    }
}

/// `errors`: a line for each, what it is made of separated by tabs, newest last.
fn errors(failures: &[Failure]) -> Vec<u8> {
    let mut text = String::new();
    for Failure { time, pid, what, path, errno, sentence, .. } in failures {
        let sentence = match sentence {
            Some(sentence) => crate::escape::line(sentence.as_bytes()),
            None => format!("{} ({what})", errno.desc()),
        };
        let _ = writeln!(text, "{}\t{pid}\t{path}\t{errno:?}: {sentence}", utc(*time));
    }
    text.into_bytes()
}

/// A time as `2026-01-31T23:59:59Z`.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March, so that the day that may be missing is the last one; eras of 400.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(at(1_763_640_306), "2025-11-20T12:05:06Z");
    }

    #[test]
    fn a_failure_is_a_line() {
        let error = Error::because(Errno::EINVAL, "bad\nname");
        let failure = Failure::new("write", "ctl/create".into(), (0, 7), &error);
        let plain = Failure::new("open", "mq/a".into(), (0, 7), &Error::new(Errno::EACCES));
        let text = String::from_utf8(errors(&[failure, plain])).unwrap();
        assert!(text.contains("Z\t7\tctl/create\tEINVAL: bad\\nname\n"), "{text}");
        assert!(text.ends_with("\t7\tmq/a\tEACCES: Permission denied (open)\n"), "{text}");
    }
}
