//! The real binary on a real mount, driven by coreutils, bash, C and Python.
//!
//! Each test has an IPC and a mount namespace of its own ([`common::World`]). They need root and
//! /dev/fuse and fail with the reason where there is none.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod check;
mod command;
mod create;
mod ctl;
mod docs;
mod faults;
mod fifo;
mod foreign;
mod ipc_lock;
mod lines;
mod model;
mod mq;
mod namespaces;
mod parity;
mod races;
mod reports;
mod sem;
mod shell_library;
mod shm;
mod soak;
mod sysv_msg;
mod sysv_msg_waiting;
mod sysv_sem;
mod sysv_shm;
mod usage;
mod users;
