//! What every request passes through, by itself: the table of nodes, the table of open files, and
//! the text that status files are made of. `cargo bench`.

#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipcfs::status::{Fields, quote};
use ipcfs::tree::handles::{Fh, Handles};
use ipcfs::tree::nodes::{NodeId, Nodes};
use ipcfs::vfs::{Attr, Children, Item};

#[allow(clippy::unnecessary_wraps)] // It is what the node table asks.
fn item() -> ipcfs::error::Result<Item> {
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

criterion_group!(benches, nodes, handles, status);
criterion_main!(benches);
