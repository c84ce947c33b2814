//! What queues cost, which the kernel charges to the user who makes them (getrlimit(2),
//! `RLIMIT_MSGQUEUE`).

use caps::{CapSet, Capability};

use crate::caller::Caller;

/// What the kernel keeps for each message beside its bytes (ipc/mqueue.c): a `struct msg_msg` and,
/// as long as there are no more than there are priorities, a `struct posix_msg_tree_node`.
const EACH: u64 = 48;
const PRIORITIES: u64 = 32_768;

/// What a queue for so many messages of so many bytes is charged.
pub(super) fn of(maxmsg: u64, msgsize: u64) -> u64 {
    let nodes = maxmsg.min(PRIORITIES);
    maxmsg.saturating_mul(msgsize.saturating_add(EACH)).saturating_add(nodes * EACH)
}

/// The caller's own limit, if they have one (proc(5)).
pub(super) fn limit(caller: Caller) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", caller.pid)).ok()?;
    parse_limit(&text)
}

/// Understands `Max msgqueue size         819200               819200               bytes`.
fn parse_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max msgqueue size"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether what root makes may be larger than the configuration says, up to what is built in:
/// `CAP_SYS_RESOURCE` in the first user namespace (ipc/mqueue.c, `mq_attr_ok`).
pub(super) fn is_unlimited() -> bool {
    /// The inode number of that namespace (`PROC_USER_INIT_INO`).
    const FIRST_NAMESPACE: &str = "user:[4026531837]";
    let namespace = std::fs::read_link("/proc/thread-self/ns/user");
    let resource = Capability::CAP_SYS_RESOURCE;
    namespace.is_ok_and(|namespace| namespace.as_os_str() == FIRST_NAMESPACE)
        && caps::has_cap(None, CapSet::Effective, resource).unwrap_or(false)
}

/// Why a queue cannot be had: `used` is how many queues of that user there are, and their cost.
pub(super) fn exceeded(uid: u32, limit: u64, cost: u64, used: (usize, u64)) -> String {
    let (count, used) = used;
    let queues = if count == 1 { "1 queue uses" } else { &format!("{count} queues use") };
    let elsewhere = if used.saturating_add(cost) <= limit {
        ", and those of other IPC namespaces count as well"
    } else {
        ""
    };
    let (cost, used) = (thousands(cost), thousands(used));
    format!(
        "RLIMIT_MSGQUEUE of uid {uid} is {limit} bytes; this queue needs {cost}; {queues} \
         {used}{elsewhere}"
    )
}

/// `819200` as `819,200`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_default_queue_costs_what_the_kernel_charges() {
        assert_eq!(of(10, 8192), 82_880);
        assert_eq!(of(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn the_kernels_line_is_understood() {
        let line =
            "Max msgqueue size         819200               819200               bytes     \n";
        assert_eq!(parse_limit(&format!("Max processes 1 2\n{line}")), Some(819_200));
        assert_eq!(parse_limit("Max msgqueue size  unlimited unlimited bytes"), None);
    }

    #[test]
    fn the_sentence_has_all_numbers() {
        let sentence = exceeded(1000, 819_200, 82_880, (9, 745_920));
        let expected = "RLIMIT_MSGQUEUE of uid 1000 is 819200 bytes; this queue needs 82,880; \
                        9 queues use 745,920";
        assert_eq!(sentence, expected);
        assert!(exceeded(0, 819_200, 82_880, (1, 82_880)).contains("1 queue uses 82,880, and"));
    }

    proptest! {
        #[test]
        fn commas_separate_thousands_and_nothing_else(number: u64, shift in 0..64_u32) {
            let text = thousands(number >> shift);
            prop_assert_eq!(text.replace(',', ""), (number >> shift).to_string());
            let groups: Vec<_> = text.split(',').map(str::len).collect();
            prop_assert!((1..=3).contains(&groups[0]) && groups[1..].iter().all(|length| *length == 3));
        }

        #[test]
        fn no_number_is_too_large_to_be_reckoned_with(maxmsg: u64, msgsize: u64, text in "Max msgqueue size\\PC{0,20}") {
            prop_assert!(of(maxmsg, msgsize) >= of(maxmsg, 0));
            let _ = parse_limit(&text);
        }
    }
}
