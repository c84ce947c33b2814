//! The system calls on semaphore sets.

use super::Step;
use crate::error::Errno;
use crate::vfs::Wait;

/// linux/sem.h; libc does not have it.
const SEM_STAT_ANY: i32 = 20;

/// semget(2).
pub(super) fn get(key: i32, nsems: i32, flags: i32) -> Result<i32, Errno> {
    // SAFETY: takes three integers.
    Errno::result(unsafe { libc::semget(key, nsems, flags) })
}

/// What is known of a set; needs no permission.
pub(super) fn stat(id: i32) -> Result<libc::semid_ds, Errno> {
    // SAFETY: all zeroes is a valid semid_ds, which the kernel fills in.
    let (found, set) = unsafe {
        let mut set: libc::semid_ds = std::mem::zeroed();
        (Errno::result(libc::semctl(id, 0, SEM_STAT_ANY, &raw mut set))?, set)
    };
    // It goes by the place in the table and says which set it has found there.
    if found == id { Ok(set) } else { Err(Errno::EIDRM) }
}

/// Whether there is a set of this identifier.
pub(super) fn exists(id: i32) -> bool {
    // Quicker than SEM_STAT_ANY, which looks at each semaphore: one that the daemon may not see is
    // there as well.
    !matches!(about(id, 0, libc::GETPID), Err(Errno::EINVAL | Errno::EIDRM))
}

/// How many sets there are, and semaphores in all of them (`SEM_INFO`).
pub(super) fn in_use() -> Result<(u64, u64), Errno> {
    // SAFETY: all zeroes is a valid seminfo, which is what SEM_INFO fills in.
    let info = unsafe {
        let mut info: libc::seminfo = std::mem::zeroed();
        Errno::result(libc::semctl(0, 0, libc::SEM_INFO, &raw mut info))?;
        info
    };
    let number = |number: i32| u64::try_from(number).unwrap_or(0);
    Ok((number(info.semusz), number(info.semaem)))
}

/// `IPC_SET`: mode and owner.
pub(super) fn set(id: i32, set: &libc::semid_ds) -> Result<(), Errno> {
    // SAFETY: the kernel reads from it.
    let done = unsafe { libc::semctl(id, 0, libc::IPC_SET, std::ptr::from_ref(set)) };
    Errno::result(done).map(drop)
}

/// `IPC_RMID`.
pub(super) fn remove(id: i32) -> Result<(), Errno> {
    // SAFETY: the kernel looks at no fourth argument.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

/// `GETALL` of a set of so many semaphores.
pub(super) fn values(id: i32, nsems: usize) -> Result<Vec<u16>, Errno> {
    let mut values = vec![0_u16; nsems];
    // SAFETY: the kernel writes as many values as the set has, which never changes; the
    // identifier's sequence number tells the set from those that come after it.
    let done = unsafe { libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr()) };
    Errno::result(done).map(|_| values)
}

/// `SETALL`.
pub(super) fn set_all(id: i32, values: &[u16]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many values as the set has, and so many there are; as above.
    let done = unsafe { libc::semctl(id, 0, libc::SETALL, values.as_ptr()) };
    Errno::result(done).map(drop)
}

/// `SETVAL`.
pub(super) fn set_one(id: i32, index: u16, value: u16) -> Result<(), Errno> {
    let (index, value) = (i32::from(index), libc::c_long::from(value));
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::semctl(id, index, libc::SETVAL, value) }).map(drop)
}

/// `GETPID`, `GETNCNT`, `GETZCNT`.
pub(super) fn about(id: i32, index: usize, what: i32) -> Result<i32, Errno> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::semctl(id, index as i32, what) })
}

/// semop(2).
pub(super) fn operate(id: i32, steps: &[Step], wait: Wait) -> Result<(), Errno> {
    let flags = if wait == Wait::Try { libc::IPC_NOWAIT } else { 0 } as i16;
    let operation =
        |step: &Step| libc::sembuf { sem_num: step.index, sem_op: step.change, sem_flg: flags };
    let mut operations: Vec<_> = steps.iter().map(operation).collect();
    // SAFETY: the kernel reads as many operations as there are.
    let done = unsafe { libc::semop(id, operations.as_mut_ptr(), operations.len()) };
    Errno::result(done).map(drop)
}
