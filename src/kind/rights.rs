//! What the kernel's check of a file's mode leaves out.
//!
//! To the System V calls (ipc/util.c, `ipcperms`) an object's creator is its owner as well, and the
//! creator's group its group. A file has one owner and one group. Once an object has been given
//! away, a creator to whose class the mode gives less than to others is refused in C, and must not
//! come in by the mount. (What the mode gives to creators beyond, the mount does not give them.)
//! And `shmat(2)` attaches nothing for writing alone, nor do `msgrcv(2)` and `mq_receive(3)`, by which a
//! truncation discards messages, take any from who may not read.

use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::proc;
use crate::vfs::Attr;

/// Permission bits of one class.
const READ: u32 = 4;
const WRITE: u32 = 2;

/// What is asked for.
pub(super) fn bits(read: bool, write: bool) -> u32 {
    (if read { READ } else { 0 }) | (if write { WRITE } else { 0 })
}

/// Whose an object is, and what its mode gives them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    mode: u32,
    /// uid and gid.
    owner: (u32, u32),
    creator: (u32, u32),
}

impl From<&libc::ipc_perm> for Rights {
    fn from(perm: &libc::ipc_perm) -> Self {
        Self {
            mode: u32::from(perm.mode) & 0o777,
            owner: (perm.uid, perm.gid),
            creator: (perm.cuid, perm.cgid),
        }
    }
}

impl From<&Attr> for Rights {
    /// The rights to an object that has no creator besides its owner.
    fn from(attr: &Attr) -> Self {
        let owner = (attr.uid, attr.gid);
        Self { mode: attr.mode & 0o777, owner, creator: owner }
    }
}

impl Rights {
    /// Fails with `EACCES` if a caller who may write may not read as well: what takes messages, the
    /// C calls permit to readers alone.
    pub(super) fn check_taking(self, caller: Caller) -> Result<()> {
        self.check(caller, WRITE, READ | WRITE)
    }

    /// Fails with `EACCES` if `ipcperms` does not give `needed` to the caller, `checked` being what
    /// the kernel has checked already, as for any file.
    pub(super) fn check(self, caller: Caller, checked: u32, needed: u32) -> Result<()> {
        let kept = self.owner == self.creator;
        let known = caller.uid == 0 || (kept && needed == checked);
        if known || self.give(caller, checked, needed) {
            return Ok(());
        }
        let (mode, (uid, gid)) = (self.mode, self.creator);
        let sentence = if kept {
            format!("its mode is {mode:04o}, and who may not read it may not do this")
        } else {
            format!(
                "its mode is {mode:04o}; its creator (uid {uid}) and their group (gid {gid}) count \
                 as owner and group as well"
            )
        };
        Err(Error::because(Errno::EACCES, sentence))
    }

    fn give(self, caller: Caller, checked: u32, needed: u32) -> bool {
        let gives = |class: u32| class & needed == needed;
        let (owner, group, other) = (self.mode >> 6, self.mode >> 3, self.mode);
        if caller.uid == self.owner.0 || caller.uid == self.creator.0 {
            return gives(owner);
        }
        let of_group = |gid: u32| gid == self.owner.1 || gid == self.creator.1;
        if of_group(caller.gid) {
            return gives(group);
        }
        match proc::groups(caller.pid) {
            Some(groups) if groups.iter().any(|group| of_group(*group)) => gives(group),
            Some(_) => gives(other),
            // Somebody from elsewhere: what is sure whoever they are. What has been kept the kernel
            // has let them have as one whose class gives at least that.
            None => [group, other]
                .into_iter()
                .filter(|class| self.owner != self.creator || class & checked == checked)
                .all(gives),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(mode: u32, owner: (u32, u32), creator: (u32, u32)) -> Rights {
        Rights { mode, owner, creator }
    }

    fn allowed(rights: Rights, ids: (u32, u32), checked: u32, needed: u32) -> bool {
        // Whose supplementary groups are not known.
        let caller = Caller { uid: ids.0, gid: ids.1, pid: 0 };
        rights.check(caller, checked, needed).is_ok()
    }

    #[test]
    fn creators_have_the_rights_of_owners_and_no_others() {
        let given = rights(0o604, (1, 1), (2, 2));
        assert!(allowed(given, (2, 9), READ, READ), "the creator is an owner");
        assert!(!allowed(given, (3, 2), READ, READ), "the creator's group is the group");
        assert!(allowed(given, (0, 2), READ, READ), "root may do anything");
        assert!(!allowed(rights(0o064, (1, 1), (2, 2)), (2, 1), READ, READ), "nor of the group");
        assert!(!allowed(given, (3, 3), READ, READ), "perhaps of the group");
        assert!(allowed(rights(0o644, (1, 1), (2, 2)), (3, 3), READ, READ), "in any case");
    }

    #[test]
    fn of_what_has_been_kept_the_kernels_check_is_enough() {
        let kept = |mode| rights(mode, (1, 1), (1, 1));
        assert!(allowed(kept(0o604), (3, 1), READ, READ));
        assert!(!allowed(kept(0o602), (3, 3), WRITE, READ | WRITE));
        assert!(allowed(kept(0o660), (3, 1), WRITE, READ | WRITE));
        assert!(allowed(kept(0o660), (3, 3), WRITE, READ | WRITE), "by a group not known here");
        assert!(!allowed(kept(0o620), (3, 3), WRITE, READ | WRITE));
    }
}
