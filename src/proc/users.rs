//! Which processes have an object open, mapped or attached.

use std::collections::BTreeSet;

use super::{Process, Targets, command, processes};
use crate::error::Result;
use crate::vfs::{Cx, FileId, Object};

/// `PID<TAB>COMMAND`, a line each.
pub fn list(object: &dyn Object, cx: &Cx) -> Result<Vec<u8>> {
    let targets = Targets::new([object]);
    cx.caller.act(|| {
        let users = find(&targets)?.users.pop().unwrap_or_default();
        let line = |pid: &u32| format!("{pid}\t{}\n", command(*pid));
        Ok(users.iter().map(line).collect::<String>().into_bytes())
    })
}

/// Who uses what.
#[derive(Debug, Default)]
pub struct Found {
    /// The processes that use each of the targets.
    pub users: Vec<BTreeSet<u32>>,
    /// Whether any process, of any target or of none, holds open files that are not shown.
    pub hidden: bool,
}

/// The processes that use each of `targets`.
pub fn find(targets: &Targets) -> Result<Found> {
    let mut found = Found { users: vec![BTreeSet::new(); targets.len()], hidden: false };
    for pid in processes()? {
        let tables = Process::tables(pid);
        for (thread, descriptors) in &tables {
            for &number in descriptors {
                let shown = thread.descriptor(number);
                found.hidden |= shown.holds_others;
                let file = thread.file(targets, number, &shown);
                if let Some(index) = file.and_then(|file| targets.files.get(&file)) {
                    found.users[*index].insert(pid);
                }
            }
        }
        let Some((process, _)) = tables.first() else { continue };
        let maps = std::fs::read(process.path("maps")).unwrap_or_default();
        for mapping in mappings(&maps) {
            let Some(index) = mapping.object(targets) else { continue };
            if !mapping.is_segment() || process.shares_namespace() {
                found.users[index].insert(pid);
            }
        }
    }
    Ok(found)
}

/// A line of /proc/PID/maps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapping<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    file: FileId,
    path: &'a [u8],
}

impl Mapping<'_> {
    /// Whether it is a System V segment, of this IPC namespace or of another.
    fn is_segment(&self) -> bool {
        self.path.starts_with(b"/SYSV")
    }

    /// Which of `targets` is mapped here.
    pub(super) fn object(&self, targets: &Targets) -> Option<usize> {
        // A segment's file is named after its key and has its identifier for a number.
        if self.is_segment() {
            let segment = i32::try_from(self.file.inode).ok()?;
            return targets.segments.get(&segment).copied();
        }
        targets.files.get(&self.file).copied()
    }
}

/// The files that are mapped in a process.
pub(super) fn mappings(maps: &[u8]) -> impl Iterator<Item = Mapping<'_>> {
    maps.split(|byte| *byte == b'\n').filter_map(mapping)
}

/// Understands `7f1c-7f1d rw-s 00000000 00:18 5    /dev/shm/name`.
fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = text()?.split_once('-')?;
    let (_permissions, _offset) = (text()?, text()?);
    let (major, minor) = text()?.split_once(':')?;
    let inode = text()?.parse().ok()?;
    // A segment may have the number 0; what else has it is no file.
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    if !path.starts_with(b"/") {
        return None;
    }
    let hex = |digits| u32::from_str_radix(digits, 16).ok();
    let device = libc::makedev(hex(major)?, hex(minor)?);
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        file: FileId { device, inode },
        path,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let text = b"7f00-7f01 rw-s 00000000 00:18 5                  /dev/shm/a b\n\
            7f02-7f03 rw-s 00000000 00:01 0              /SYSV000004d2 (deleted)\n\
            7f04-7f05 rw-p 00000000 00:00 0                  [heap]\n\
            nonsense\n\n";
        let found: Vec<_> = mappings(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].start, found[0].end, found[0].path),
            (0x7f00, 0x7f01, &b"/dev/shm/a b"[..])
        );
        assert_eq!(found[0].file, FileId { device: libc::makedev(0, 0x18), inode: 5 });
        let mut targets = Targets::new([]);
        targets.segments.insert(0, 3);
        assert_eq!(found[1].object(&targets), Some(3));
        assert_eq!(found[0].object(&targets), None);
    }

    proptest! {
        #[test]
        fn a_mapping_is_that_of_its_file_whatever_its_name(
            start: u64, length in 0..1_u64 << 40, major in 0..4096_u32, minor in 0..1_u32 << 20, inode: u64,
            permissions in "[r-][w-][x-][ps]", path in "/[ -~]{0,20}",
        ) {
            let end = start.saturating_add(length);
            // fs/proc/task_mmu.c, show_vma_header_prefix; the path begins at the 73rd column.
            let line = format!("{start:08x}-{end:08x} {permissions} 00000000 {major:02x}:{minor:02x} {inode}");
            let line = format!("{line:<72} {path}");
            let file = FileId { device: libc::makedev(major, minor), inode };
            let path = path.as_bytes();
            prop_assert_eq!(mapping(line.as_bytes()), Some(Mapping { start, end, file, path }));
        }

        #[test]
        fn any_text_is_understood_or_left_out(text: Vec<u8>, line in "([0-9a-f]{0,17}[-: ]){0,9}/?\\PC{0,9}") {
            prop_assert!(mappings(&text).chain(mappings(line.as_bytes())).count() <= text.len() + line.len() + 2);
        }
    }
}
