//! The real binary on a real mount, driven by coreutils, bash, C and Python.
//!
//! Each test has an IPC and a mount namespace of its own ([`common::World`]). They need root and
//! /dev/fuse and fail with the reason where there is none.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod command;
mod create;
mod ctl;
mod docs;
mod faults;
mod fifo;
mod ipc_lock;
mod lines;
mod mq;
mod reports;
mod sem;
mod shm;
mod sysv_msg;
mod sysv_sem;
mod sysv_shm;
mod usage;
mod users;
