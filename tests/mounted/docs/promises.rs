//! What the README says one can rely on, and the tests that say so.

use std::fs;
use std::path::Path;

use super::read;
use crate::common::World;

/// Each promise, by how it begins, and its tests. Where a module is named alone, all of it is about
/// the promise.
const PROMISES: [(&str, &[&str]); 9] = [
    (
        "The objects are the kernel's own",
        &[
            "mq::c_and_the_shell_meet_at_the_same_queue",
            "mq::everything_survives_unmounting_and_a_kill",
            "sysv_msg::shell_and_c_see_the_same_queue_and_the_tools_agree_after_each_step",
            "shm::c_and_the_shell_have_the_same_objects",
            "shm::mappings_of_the_mount_of_another_mount_and_of_shm_open_are_the_same_pages",
            "sysv_shm::a_mapping_through_the_mount_and_shmat_share_their_pages",
            "sem::c_and_the_shell_share_one_semaphore",
            "sysv_sem::c_and_the_shell_share_one_set",
            "fifo::they_are_pipes_like_those_of_a_tmpfs",
            "model",
        ],
    ),
    (
        "ipcfs never lets you do what the kernel would refuse you",
        &[
            "users::a_supplementary_group_lets_in_and_its_absence_keeps_out",
            "users::what_a_user_makes_is_theirs_with_their_group_and_umask",
            "users::a_name_that_changes_hands_never_lets_in_who_may_not",
            "sysv_msg::owner_and_creator_alone_change_and_remove",
            "parity::rights",
        ],
    ),
    (
        "The errno is the C call's",
        &[
            "parity",
            "create::a_limit_is_the_kernels_errno_and_a_sentence",
            "mq::full_limits_give_the_errno_of_the_c_call",
            "sysv_sem::bad_input_is_refused_as_the_c_call_does_and_changes_nothing",
        ],
    ),
    (
        "One write is one message",
        &[
            "mq::a_long_message_is_whole_or_refused_wherever_its_bytes_begin",
            "faults::readers",
            "mq::twenty_writers_and_five_readers_lose_and_double_nothing",
            "sysv_msg::a_message_of_any_length_passes_whole_or_not_at_all",
            "sysv_msg_waiting::twenty_writers_and_no_message_is_lost_doubled_or_torn",
            "lines::a_killed_reader_takes_nothing_with_it",
        ],
    ),
    (
        "What blocks ends on Ctrl-C or kill at once",
        &[
            "mq::a_blocked_reader_or_writer_ends_at_once_and_has_taken_and_sent_nothing",
            "faults::readers",
            "sysv_msg_waiting::one_who_waits_ends_at_once_on_a_signal_and_has_taken_nothing",
            "sem::a_thousand_who_wait_are_killed_at_once_and_have_taken_nothing",
            "shell_library::what_waits_ends_at_once_on_ctrl_c_and_has_taken_and_sent_nothing",
        ],
    ),
    (
        "One user's blocked or hostile objects never stop another's work",
        &[
            "faults::waiting",
            "mq::everybody_passes_a_blocked_writer",
            "users::one_users_blocked_requests_and_open_files_leave_room_for_the_others",
        ],
    ),
    (
        "Nothing put into /dev/shm makes the daemon crash",
        &[
            "faults::hostile",
            "shm::what_is_no_shared_memory_is_neither_seen_nor_touched",
            "shm::what_takes_a_files_place_between_look_up_and_open_is_never_opened",
            "sem::what_is_no_semaphore_is_not_touched",
            "sem::a_semaphore_cut_short_while_in_use_is_an_error_and_the_daemon_lives",
        ],
    ),
    (
        "If the daemon dies",
        &[
            "faults::daemon",
            "command::after_a_kill_clients_get_an_error_and_the_next_start_works",
            "command::a_start_clears_what_a_killed_daemon_and_its_guard_have_left",
        ],
    ),
    (
        "Listing and `stat` take nothing away",
        &[
            "docs::promises::looking_takes_nothing_away",
            "mq::counting_and_tailing_take_nothing_that_they_have_not_seen",
        ],
    ),
];

/// Whether there is such a test, or such a module with tests.
fn exists(test: &str) -> bool {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mounted");
    let module = |path: &str| fs::read_to_string(tests.join(format!("{path}.rs")));
    let path = test.replace("::", "/");
    if let Ok(text) = module(&path) {
        return text.contains("#[test]") || tests.join(path).is_dir();
    }
    let Some((path, name)) = path.rsplit_once('/') else { return false };
    module(path).is_ok_and(|text| text.contains(&format!("#[test]\nfn {name}() {{")))
}

#[test]
fn each_promise_of_the_readme_has_its_tests() {
    let readme = read("README.md");
    let section =
        readme.split("## What you can rely on").nth(1).unwrap().split("\n\n").nth(1).unwrap();
    let promises: Vec<_> =
        section.lines().filter_map(|line| Some(line.split_once(". ")?.1)).collect();
    assert_eq!(promises.len(), PROMISES.len());
    for (promise, (begins, tests)) in promises.iter().zip(PROMISES) {
        assert!(promise.starts_with(begins), "{promise}");
        assert!(!tests.is_empty());
        for test in tests {
            assert!(exists(test), "{promise}: there is no {test}");
        }
    }
    assert!(!exists("mq::no_such_test") && !exists("nowhere"));
}

#[test]
fn looking_takes_nothing_away() {
    let world = World::new();
    world.run(
        "printf 'mq/q\\nshm/m size=5\\nsem/s value=3\\nfifo/f\\nsysv/msg/1\\nsysv/sem/2\\nsysv/shm/3 size=5' > ctl/create
         printf one > mq/q; printf two > mq/q; printf one > sysv/msg/1; printf hello > shm/m
         printf hello > sysv/shm/3; echo '= 4' > sysv/sem/2; ln -s 0x1 sysv/msg/jobs",
    );
    let content = "cat ctl/mq/q/status ctl/sysv/msg/1/status ctl/sysv/msg/1/peek sem/s sysv/sem/2
        cat shm/m sysv/shm/3; readlink sysv/msg/jobs";
    // When somebody looked last does change.
    let content = format!("({content}) | grep -v time");
    let before = world.run(&content);
    world.run(
        "find . -ls; ls -laR; ls -laRL; stat -L */* sysv/*/*; du -a; test -s mq/q; [ -r mq/q ]
         find . -size +1000 -newer README; file --version; getfattr -R . 2> /dev/null; :",
    );
    // And all of ctl/ that is read without taking, as the README lists what takes.
    let taking =
        "-name lines -o -name tagged -o -name drain -o -path '*/type/*' -o -path '*/except/*'";
    world.run(&format!(
        "find ctl README -type f ! \\( {taking} -o -path '*hold*' \\) -readable ! -perm 222 ! -perm 200 \
             -exec cat {{}} + > /dev/null 2>&1; cat sem/s sysv/sem/2 shm/m sysv/shm/3 > /dev/null"
    ));
    assert_eq!(world.run(&content), before);
    assert_eq!(world.run("cat mq/q; cat mq/q; cat sysv/msg/1; stat -c %s mq/q"), "onetwoone0\n");
}
