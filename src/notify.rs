//! Telling systemd that the mount works (`Type=notify`, `sd_notify(3)`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells whoever has started the daemon, if they want to be told.
pub fn ready() {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        if let Err(error) = tell(&socket, b"READY=1\n") {
            log::warn!("the service manager cannot be told that the mount works: {error}");
        }
    }
}

fn tell(socket: &OsStr, what: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(what, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_by_path_and_by_abstract_name() {
        let path = std::env::temp_dir().join(format!("ipcfs-notify-{}", std::process::id()));
        let name = format!("@ipcfs-notify-{}", std::process::id());
        let bound = [
            UnixDatagram::bind(&path).unwrap(),
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).unwrap(),
        ];
        for (socket, address) in bound.iter().zip([path.as_os_str(), OsStr::new(&name)]) {
            tell(address, b"READY=1\n").unwrap();
            let mut told = [0; 32];
            let length = socket.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1\n");
        }
        std::fs::remove_file(path).unwrap();
        assert!(tell(OsStr::new("/nonexistent/socket"), b"READY=1\n").is_err());
    }
}
