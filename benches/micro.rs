//! What requests pass through, by itself: the table of nodes, the table of open files, the parsers
//! of what is written, lines made messages and messages made lines, and the text that status files
//! are made of. `cargo bench`.

#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ipcfs::caller::Caller;
use ipcfs::cli::MountOptions;
use ipcfs::ctl::create;
use ipcfs::error::Result;
use ipcfs::escape;
use ipcfs::kind::KINDS;
use ipcfs::kind::lines::{LinesFile, Tags};
use ipcfs::kind::message::Messages;
use ipcfs::kind::{sem, sysv};
use ipcfs::status::{Fields, quote};
use ipcfs::tree::handles::{Fh, Handles};
use ipcfs::tree::nodes::{NodeId, Nodes};
use ipcfs::vfs::{Attr, Children, Cx, Handle, How, Item, Wait};

#[allow(clippy::unnecessary_wraps)] // It is what the node table asks.
fn item() -> Result<Item> {
    Ok(Item::Link(Arc::from(*b"target")))
}

fn root() -> Nodes {
    Nodes::new(Item::Link(Arc::from(*b"root")), Attr::directory(0, 0o755))
}

fn look_up(nodes: &Nodes, ident: u64) -> NodeId {
    let attr = Attr::file(ident, 0o600);
    let found = nodes.look_up(NodeId::ROOT, b"jobs", &attr, Children::PerWriter, item);
    found.expect("the item is there").id
}

fn nodes(c: &mut Criterion) {
    for known in [1, 10_000] {
        let nodes = root();
        for ident in 0..known {
            look_up(&nodes, ident);
        }
        c.bench_function(&format!("look up a known name and forget, {known} known"), |b| {
            b.iter(|| {
                let id = look_up(&nodes, black_box(0));
                nodes.forget(id, 1);
            });
        });
        c.bench_function(&format!("look up a new name and forget, {known} known"), |b| {
            b.iter(|| {
                let id = look_up(&nodes, black_box(u64::MAX));
                nodes.forget(id, 1);
            });
        });
    }
    let nodes = root();
    let id = look_up(&nodes, 7);
    c.bench_function("open for writing and close a node", |b| {
        b.iter(|| {
            nodes.begin_open(id, Fh(1), true, 1).expect("nobody else writes");
            nodes.end_open(id, Fh(1), true);
        });
    });
    c.bench_function("look up ten thousand names, forget them", |b| {
        b.iter_batched(
            root,
            |nodes| {
                let ids: Vec<_> = (0..10_000).map(|ident| look_up(&nodes, ident)).collect();
                ids.into_iter().for_each(|id| nodes.forget(id, 1));
                nodes
            },
            BatchSize::LargeInput,
        );
    });
}

fn handles(c: &mut Criterion) {
    let handles = Handles::default();
    let fhs: Vec<_> = (0..1000).map(|_| handles.number()).collect();
    for fh in &fhs {
        handles.insert(*fh, ());
    }
    c.bench_function("find an open file among 1000", |b| {
        b.iter(|| handles.get(black_box(fhs[500])).is_ok());
    });
}

fn parsers(c: &mut Criterion) {
    for (what, text) in [("+1", &b"+1\n"[..]), ("a refused word", b"frobnicate\n")] {
        c.bench_function(&format!("parse what a semaphore is written: {what}"), |b| {
            b.iter(|| sem::grammar::parse(black_box(text)).is_ok());
        });
    }
    for text in ["0 -1, 1 +2", "= 1 0 3", "2 = 5"] {
        c.bench_function(&format!("parse what a set is written: {text}"), |b| {
            b.iter(|| sysv::sem::grammar::parse(black_box(text.as_bytes())).is_ok());
        });
    }
    let most = vec!["0 +1"; 500].join(", ");
    c.bench_function("parse 500 operations on a set", |b| {
        b.iter(|| sysv::sem::grammar::parse(black_box(most.as_bytes())).is_ok());
    });
    for name in ["0x000004d2", "1234", "id-32769", "jobs"] {
        c.bench_function(&format!("parse a System V name: {name}"), |b| {
            b.iter(|| sysv::name::Name::parse(black_box(name.as_bytes())));
        });
    }
    let line = b"sysv/sem/0x99 nsems=4 mode=0660";
    c.bench_function("parse a line of ctl/create", |b| {
        b.iter(|| create::grammar::parse(black_box(line), KINDS.iter()).is_ok());
    });
    c.bench_function("parse mount options", |b| {
        b.iter(|| MountOptions::parse(black_box("rw,noexec,allow_other,mq_maxmsg=20")).is_ok());
    });
    let name = b"a name that's quoted\n";
    c.bench_function("write a name as a word and read it again", |b| {
        b.iter(|| escape::words(escape::word(black_box(name)).as_bytes()).is_ok());
    });
}

/// A queue that takes everything and always has the same message.
struct Endless(&'static [u8]);

impl Messages for Endless {
    fn send(&self, _: &Cx, _: i64, data: &[u8]) -> Result<()> {
        black_box(data);
        Ok(())
    }
    fn receive(&self, _: &Cx, message: &mut Vec<u8>) -> Result<i64> {
        message.clear();
        message.extend_from_slice(self.0);
        Ok(0)
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::file(1, 0o600))
    }
    fn longest(&self) -> Result<usize> {
        Ok(8192)
    }
    fn poll(&self, events: i16) -> i16 {
        events
    }
    fn wait_ready(&self, _: i16) -> Result<()> {
        Ok(())
    }
}

fn lines(c: &mut Criterion) {
    static TAGS: Tags = Tags { name: "priority", valid: 0..=32767, default: 0 };
    const COUNT: usize = 1000;
    let cx = Cx { caller: Caller::daemon(), wait: Wait::Block, nonblock: false };
    let mut group = c.benchmark_group("a thousand lines of 100 bytes");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (tagged, name) in [(false, "lines"), (true, "tagged")] {
        let how = How::new(libc::O_RDWR, Attr::file(1, 0o600));
        let file = LinesFile::new(Endless(&[b'x'; 99]), &TAGS, tagged, &cx, &how);
        let tag: &[u8] = if tagged { b"0\t" } else { b"" };
        let text = [tag, &[b'x'; 99], b"\n"].concat().repeat(COUNT);
        group.bench_function(format!("written to {name}"), |b| {
            b.iter(|| {
                let mut done = 0;
                file.write(&cx, 0, black_box(&text), &mut done).is_ok()
            });
        });
        // As much as holds them and one more of the longest.
        let size = text.len() + 8192;
        group.bench_function(format!("read from {name}"), |b| {
            let mut out = Vec::new();
            b.iter(|| {
                out.clear();
                file.read(&cx, 0, size, &mut out).is_ok()
            });
        });
    }
    group.finish();
}

fn status(c: &mut Criterion) {
    c.bench_function("quote a plain name", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            quote(black_box(b"jobs.2025-08"), &mut out);
            out
        });
    });
    c.bench_function("quote 255 apostrophes", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            quote(black_box(&[b'\''; 255]), &mut out);
            out
        });
    });
    let fields = Fields::default()
        .text("name", "jobs")
        .mode(0o640)
        .number("maxmsg", 10)
        .number("curmsgs", 3)
        .times(&Attr::file(1, 0o640));
    c.bench_function("status as lines", |b| b.iter(|| black_box(&fields).sh()));
    c.bench_function("status as JSON", |b| b.iter(|| black_box(&fields).json().to_string()));
}

criterion_group!(benches, nodes, handles, parsers, lines, status);
criterion_main!(benches);
