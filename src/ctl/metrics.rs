//! `metrics`: Prometheus's text exposition format.

use std::borrow::Cow;
use std::fmt::Write;

use super::listing::{Facts, Found, Reader, facts, objects};
use super::{Kinds, limits};
use crate::caller::Caller;
use crate::error::Result;
use crate::escape;
use crate::monitor;
use crate::proc::{Targets, users, waiters};
use crate::vfs::Object;

/// A metric with all its samples.
struct Metric {
    text: String,
    name: &'static str,
}

impl Metric {
    fn new(name: &'static str, sort: &str, help: &str) -> Self {
        Self { text: format!("# HELP {name} {help}\n# TYPE {name} {sort}\n"), name }
    }

    fn gauge(name: &'static str, help: &str) -> Self {
        Self::new(name, "gauge", help)
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(self.name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{value}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }
}

/// A name as the value of a label, which is any UTF-8; what is none is written as for a shell.
fn label(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(name) => name.into(),
        Err(_) => escape::dollar(name).into(),
    }
}

/// Everything. What is in an object is for those who may read it.
pub(super) fn text(kinds: &Kinds, caller: Caller) -> Result<Vec<u8>> {
    let mut text = String::new();
    for metric in about_objects(kinds, caller)?.into_iter().chain(about_limits(kinds, caller)) {
        text.push_str(&metric.text);
    }
    for metric in about_daemon() {
        text.push_str(&metric.text);
    }
    Ok(text.into_bytes())
}

fn about_objects(kinds: &Kinds, caller: Caller) -> Result<Vec<Metric>> {
    let reader = Reader::new(caller);
    let with_facts = |found| facts(&found, &reader).map(|facts| (found, facts));
    let all: Vec<(Found, Facts)> = objects(kinds).into_iter().filter_map(with_facts).collect();
    let targets = Targets::new(all.iter().map(|(found, _)| &*found.object as &dyn Object));
    let users = caller.act(|| users::find(&targets))?.users;
    let waiters = waiters::find(&targets, caller)?;

    let mut messages = Metric::gauge("ipcfs_object_messages", "Messages queued.");
    let mut bytes = Metric::gauge("ipcfs_object_bytes", "Bytes queued or held.");
    let mut most = Metric::gauge("ipcfs_object_max_messages", "Messages that the queue takes.");
    let mut most_bytes = Metric::gauge("ipcfs_object_max_bytes", "Bytes that the queue takes.");
    let mut value = Metric::gauge("ipcfs_object_value", "Value of a semaphore.");
    let mut attached = Metric::gauge("ipcfs_object_attached", "Attachments of a System V segment.");
    let mut used = Metric::gauge("ipcfs_object_users", "Processes that have it open.");
    let mut awaited = Metric::gauge("ipcfs_object_waiters", "Processes that wait for it.");
    for (index, (found, facts)) in all.iter().enumerate() {
        let name = label(&found.name);
        let labels = [("kind", found.kind), ("name", &*name)];
        let samples = [
            (&mut messages, facts.messages),
            (&mut bytes, facts.bytes),
            (&mut most, facts.most.0),
            (&mut most_bytes, facts.most.1),
            (&mut attached, facts.attached),
        ];
        for (metric, sample) in samples {
            if let Some(sample) = sample {
                metric.sample(&labels, sample);
            }
        }
        for (number, sample) in facts.values.iter().enumerate() {
            let number = number.to_string();
            let [kind, name] = labels;
            value.sample(&[kind, name, ("index", &number)], sample);
        }
        used.sample(&labels, users[index].len());
        for what in ["send", "receive", "wait"] {
            let count = waiters[index].iter().filter(|waiter| waiter.what == what).count();
            let [kind, name] = labels;
            if count > 0 {
                awaited.sample(&[kind, name, ("what", what)], count);
            }
        }
    }
    Ok(vec![messages, bytes, most, most_bytes, value, attached, used, awaited])
}

fn about_limits(kinds: &Kinds, caller: Caller) -> [Metric; 2] {
    let mut limit = Metric::gauge("ipcfs_limit", "A limit of the kernel or of the daemon.");
    let mut used = Metric::gauge("ipcfs_limit_used", "How much of a limit is in use.");
    for one in limits::all(kinds, caller) {
        let labels = [("name", one.name)];
        match one.max {
            Some(max) => limit.sample(&labels, max),
            None => limit.sample(&labels, "+Inf"),
        }
        if let Some(sample) = one.used {
            used.sample(&labels, sample);
        }
    }
    [limit, used]
}

fn about_daemon() -> Vec<Metric> {
    let monitor = monitor::get();
    let mut requests = Metric::new("ipcfs_requests_total", "counter", "Requests of the kernel.");
    for (opcode, count) in monitor.requests() {
        match OPERATIONS.iter().find(|(known, _)| *known == opcode) {
            Some((_, name)) => requests.sample(&[("operation", name)], count),
            None if count > 0 => requests.sample(&[("operation", &opcode.to_string())], count),
            None => {}
        }
    }
    let mut errors =
        Metric::new("ipcfs_errors_total", "counter", "Operations that have failed (ctl/errors).");
    errors.sample(&[], monitor.failed());
    let mut metrics = vec![requests, errors];
    if let Some(blocker) = monitor.blocker() {
        let mut blocked = Metric::gauge("ipcfs_blocked_requests", "Requests that wait.");
        blocked.sample(&[], blocker.errands().len());
        let mut workers = Metric::gauge("ipcfs_worker_threads", "Threads for requests that wait.");
        workers.sample(&[], blocker.workers());
        metrics.extend([blocked, workers]);
    }
    if let Some(mounted) = monitor.mounted() {
        let (known, open) = mounted.load();
        let mut nodes = Metric::gauge("ipcfs_nodes", "Names that the kernel knows.");
        nodes.sample(&[], known);
        let mut files = Metric::gauge("ipcfs_open_files", "Files and directories that are open.");
        files.sample(&[], open);
        metrics.extend([nodes, files]);
    }
    let mut info = Metric::gauge("ipcfs_info", "The version.");
    info.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    metrics.push(info);
    metrics
}

/// Operation codes (linux/fuse.h).
const OPERATIONS: &[(u32, &str)] = &[
    (1, "lookup"),
    (2, "forget"),
    (3, "getattr"),
    (4, "setattr"),
    (5, "readlink"),
    (6, "symlink"),
    (8, "mknod"),
    (9, "mkdir"),
    (10, "unlink"),
    (11, "rmdir"),
    (12, "rename"),
    (13, "link"),
    (14, "open"),
    (15, "read"),
    (16, "write"),
    (17, "statfs"),
    (18, "release"),
    (20, "fsync"),
    (21, "setxattr"),
    (22, "getxattr"),
    (23, "listxattr"),
    (24, "removexattr"),
    (25, "flush"),
    (26, "init"),
    (27, "opendir"),
    (28, "readdir"),
    (29, "releasedir"),
    (30, "fsyncdir"),
    (35, "create"),
    (39, "ioctl"),
    (40, "poll"),
    (42, "batch_forget"),
    (43, "fallocate"),
    (45, "rename2"),
    (46, "lseek"),
    (47, "copy_file_range"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut metric = Metric::gauge("ipcfs_x", "X.");
        metric.sample(&[("name", "a\"b\\c\nd")], 3);
        metric.sample(&[], 4);
        let expected = "# HELP ipcfs_x X.\n# TYPE ipcfs_x gauge\n\
            ipcfs_x{name=\"a\\\"b\\\\c\\nd\"} 3\nipcfs_x 4\n";
        assert_eq!(metric.text, expected);
    }

    #[test]
    fn a_name_is_escaped_once() {
        assert_eq!(label(b"b\\s"), "b\\s");
        assert_eq!(label("\u{e4}\n".as_bytes()), "\u{e4}\n");
        assert_eq!(label(b"a\xff"), "$'a\\xff'");
    }

    /// What Prometheus reads between the quotes, and what comes after them.
    fn read(text: &str) -> Option<(String, &str)> {
        let (mut value, mut characters) = (String::new(), text.char_indices());
        while let Some((at, character)) = characters.next() {
            value.push(match character {
                '"' => return Some((value, &text[at + 1..])),
                '\n' => return None,
                '\\' => match characters.next()?.1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    _ => return None,
                },
                plain => plain,
            });
        }
        None
    }

    proptest! {
        #[test]
        fn a_label_is_read_as_what_it_was(value in "[a\\\\\"\\n{},]{0,9}|.{0,9}") {
            let mut metric = Metric::gauge("ipcfs_x", "X.");
            metric.sample(&[("name", &value)], 3);
            let sample = metric.text.strip_prefix("# HELP ipcfs_x X.\n# TYPE ipcfs_x gauge\n").unwrap();
            let (value_read, after) = read(sample.strip_prefix("ipcfs_x{name=\"").unwrap()).unwrap();
            prop_assert_eq!(value_read, value);
            prop_assert_eq!(after, "} 3\n");
        }
    }
}
