//! Panics on purpose, so that tests can see that a request that panics ends nothing but itself. A
//! release build has none of it.
//!
//! A debug build that is started with `IPCFS_PANIC=DIRECTORY` panics in a handler (`lookup`, `read`)
//! if there is a file of its name in the directory, which it removes first; in the part of it that
//! a worker does, if there is one of that name and `-late`.

/// Panics in the handler that `part` is a closure of, if that is asked for.
#[cfg(debug_assertions)]
pub(crate) fn strike<T>(_part: &T, late: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(dir) = DIR.get_or_init(|| std::env::var_os("IPCFS_PANIC").map(PathBuf::from)) else {
        return;
    };
    // `ipcfs::fuse::requests::<impl fuser::Filesystem for ipcfs::fuse::Adapter>::read::{{closure}}`,
    // perhaps as somebody's parameter.
    let part = std::any::type_name::<T>().split_once("Filesystem");
    let handler =
        part.and_then(|(_, rest)| rest.split("::").skip_while(|word| !word.ends_with('>')).nth(1));
    let handler = handler.unwrap_or_default();
    let name = format!("{handler}{late}");
    assert!(std::fs::remove_file(dir.join(&name)).is_err(), "{name} panics on purpose");
}

#[cfg(not(debug_assertions))]
pub(crate) fn strike<T>(_part: &T, _late: &str) {}
