//! Which processes wait for an object: in the C call (`/proc/PID/task/TID/syscall` tells), or in a
//! read or write of the mount, which the daemon knows of.

use std::collections::BTreeSet;

use super::{Process, Targets, command, numbers, process_of, processes, users};
use crate::caller::Caller;
use crate::error::Result;
use crate::monitor;
use crate::vfs::{Cx, Object, Waits};

/// A process and what it waits to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter {
    /// The process.
    pub pid: u32,
    /// `send`, `receive`, `wait`.
    pub what: &'static str,
}

/// `PID<TAB>send or receive<TAB>COMMAND`, a line each; `wait` where it is a semaphore.
pub fn list(object: &dyn Object, cx: &Cx) -> Result<Vec<u8>> {
    let targets = Targets::new([object]);
    let found = find(&targets, cx.caller)?.pop().unwrap_or_default();
    let line = |Waiter { pid, what }: &Waiter| format!("{pid}\t{what}\t{}\n", command(*pid));
    Ok(found.iter().map(line).collect::<String>().into_bytes())
}

/// The processes that wait for each of `targets`, as far as `caller` may see them.
pub fn find(targets: &Targets, caller: Caller) -> Result<Vec<BTreeSet<Waiter>>> {
    let mut waiters = vec![BTreeSet::new(); targets.len()];
    caller.act(|| {
        for pid in processes()? {
            for thread in numbers(format!("/proc/{pid}/task")).unwrap_or_default() {
                if let Some((index, what)) = in_call(targets, Process { pid, thread }) {
                    waiters[index].insert(Waiter { pid, what });
                }
            }
        }
        Ok(())
    })?;
    for (index, waiter) in in_mount(targets) {
        if Process::look(waiter.pid).0.may_see(caller) {
            waiters[index].insert(waiter);
        }
    }
    Ok(waiters)
}

/// A system call that a thread waits in.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    number: i64,
    arguments: [u64; 2],
}

/// Understands `202 0x7f1c 0x80 ...`; a thread that waits in none is `running` or `-1`.
fn call(text: &str) -> Option<Call> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    Some(Call { number, arguments: [argument()?, argument()?] })
}

/// What a thread waits for in the C call.
fn in_call(targets: &Targets, thread: Process) -> Option<(usize, &'static str)> {
    let text = std::fs::read_to_string(thread.path("syscall")).ok()?;
    let Call { number, arguments: [first, second] } = call(&text)?;
    let of =
        |waits: Waits| targets.all.iter().position(|target| target.traces.waits == Some(waits));
    match number {
        libc::SYS_mq_timedsend | libc::SYS_mq_timedreceive => {
            let queue = first as u32;
            let file = thread.file(targets, queue, &thread.descriptor(queue))?;
            let index = *targets.files.get(&file)?;
            Some((index, direction(number == libc::SYS_mq_timedsend)))
        }
        libc::SYS_msgsnd | libc::SYS_msgrcv => {
            let index = of(Waits::SystemVQueue(first as i32))?;
            thread.shares_namespace().then_some((index, direction(number == libc::SYS_msgsnd)))
        }
        libc::SYS_semop | libc::SYS_semtimedop => {
            let index = of(Waits::SystemVSemaphores(first as i32))?;
            thread.shares_namespace().then_some((index, "wait"))
        }
        libc::SYS_futex if is_futex_wait(second) => {
            let index = mapped_at(targets, thread, first)?;
            let semaphore = targets.all[index].traces.waits == Some(Waits::Semaphore);
            semaphore.then_some((index, "wait"))
        }
        _ => None,
    }
}

/// The system calls that open a file.
const OPENS: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
];

/// Whether any thread waits in an open for a pipe: whoever waits for the other end of a pipe has no descriptor
/// yet, and nothing says which pipe it is.
pub fn somebody_opens() -> Result<bool> {
    let opens = |pid: u32, thread: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall"));
        let number = text.ok().and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
        // Where in the kernel it waits, if the kernel tells (fs/pipe.c); most opens wait for a file
        // system.
        let for_a_pipe = || {
            let place = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/wchan"));
            place.is_ok_and(|place| matches!(&*place, "wait_for_partner" | "0" | ""))
        };
        number.is_some_and(|number: i64| OPENS.contains(&number)) && for_a_pipe()
    };
    let in_process = |pid: u32| {
        let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
        threads.into_iter().any(|thread| opens(pid, thread))
    };
    Ok(processes()?.into_iter().any(in_process))
}

const fn direction(write: bool) -> &'static str {
    if write { "send" } else { "receive" }
}

/// `FUTEX_WAIT` or `FUTEX_WAIT_BITSET`, on memory that processes share.
fn is_futex_wait(operation: u64) -> bool {
    let operation = operation as i32;
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    operation & libc::FUTEX_PRIVATE_FLAG == 0
        && matches!(command, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET)
}

/// Which of `targets` is mapped at an address of a process.
fn mapped_at(targets: &Targets, thread: Process, address: u64) -> Option<usize> {
    let waited_for = |index: &usize| targets.all[*index].traces.waits == Some(Waits::Semaphore);
    if !(0..targets.len()).any(|index| waited_for(&index)) {
        return None;
    }
    let maps = std::fs::read(thread.path("maps")).ok()?;
    users::mappings(&maps)
        .find(|mapping| (mapping.start..mapping.end).contains(&address))?
        .object(targets)
}

/// Those who wait in a read or write of the mount, or for it to be opened.
fn in_mount(targets: &Targets) -> Vec<(usize, Waiter)> {
    let monitor = monitor::get();
    let (Some(blocker), Some(mounted)) = (monitor.blocker(), monitor.mounted()) else {
        return Vec::new();
    };
    let waiter = |errand: crate::block::Errand| {
        let index = *targets.ids.get(&mounted.object(errand.node)?)?;
        let queue =
            matches!(targets.all[index].traces.waits, Some(Waits::Queue | Waits::SystemVQueue(_)));
        let what = if queue { direction(errand.write) } else { "wait" };
        Some((index, Waiter { pid: process_of(errand.pid)?, what }))
    };
    blocker.errands().into_iter().filter_map(waiter).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_line_is_understood() {
        let text = "202 0x7f1c 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f1d\n";
        assert_eq!(call(text), Some(Call { number: 202, arguments: [0x7f1c, 0x189] }));
        assert_eq!(call("running\n"), None);
        assert_eq!(
            call("-1 0x7ffd 0x7f1d\n"),
            Some(Call { number: -1, arguments: [0x7ffd, 0x7f1d] })
        );
        assert_eq!(call(""), None);
    }

    #[test]
    fn waiting_is_told_from_waking_and_from_private_memory() {
        assert!(is_futex_wait(0x109) && is_futex_wait(0));
        assert!(!is_futex_wait(1) && !is_futex_wait(0x80));
    }

    proptest! {
        #[test]
        fn any_call_is_understood(number: i64, arguments: [u64; 6], rest in "[0-9a-fx -]{0,40}|\\PC{0,9}") {
            let words: Vec<_> = arguments.iter().map(|argument| format!("{argument:#x}")).collect();
            let text = format!("{number} {} 0x7ffd 0x7f1d\n", words.join(" "));
            let [first, second, ..] = arguments;
            prop_assert_eq!(call(&text), Some(Call { number, arguments: [first, second] }));
            let _ = call(&rest);
        }
    }
}
