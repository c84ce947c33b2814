#!/bin/sh
# What the README prints about installing and mounting, run as it is printed there, as root: on layers
# above /usr, /etc and the home directory, in IPC and mount namespaces of their own.
set -eu
cd "$(dirname "$0")/.."
if [ "${1-}" != --unshared ]; then
	exec unshare --ipc --mount --propagation private "$0" --unshared
fi

fail() {
	echo "tests/printed.sh: $*" >&2
	exit 1
}

# Nothing of it stays: the layers are in memory, the mounts in the namespace.
work=$(mktemp -d)
trap 'umount -l /mnt/ipc 2>/dev/null || true; umount -l "$work"; rmdir "$work"' EXIT
mount -t tmpfs tmpfs "$work"
mkdir "$work/home"
for directory in usr etc; do
	mkdir "$work/$directory" "$work/$directory.work"
	mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$work/$directory,workdir=$work/$directory.work" "/$directory"
done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
mkdir /mnt/ipc
# Small queues: all of a user's count together.
echo 1024 >/proc/sys/fs/mqueue/msgsize_default

# What is to be run has to be in the README.
printed() {
	grep -qF "\`$1\`" README.md || fail "the README does not say: $1"
	printf '==> %s\n' "$1"
}

run() {
	printed "$1"
	eval "$1"
}

mounted() {
	findmnt -no FSTYPE --mountpoint /mnt/ipc | grep -qx fuse.ipcfs || fail "$1 has not mounted"
	echo hello >/mnt/ipc/mq/jobs
	[ "$(cat /mnt/ipc/mq/jobs)" = hello ]
	rm /mnt/ipc/mq/jobs
	umount /mnt/ipc
}

# The binary alone. What it takes from the registry is Cargo.toml's, not Cargo.lock's.
export CARGO_INSTALL_ROOT="$work/cargo"
run 'cargo install --path .'
"$work/cargo/bin/ipcfs" -V

run 'scripts/install'
[ "$(command -v ipcfs)" = /usr/local/bin/ipcfs ] || fail "another ipcfs is found first: $(command -v ipcfs)"
ipcfs /mnt/ipc
mounted ipcfs

printed 'mount -t ipcfs'
mount -t ipcfs ipcfs /mnt/ipc
mounted 'mount -t ipcfs'

line='ipcfs  /mnt/ipc  fuse.ipcfs  defaults  0  0'
printed "$line"
grep -qxF "$line" docs/man/ipcfs.8.roff || fail "ipcfs.8 has another line for fstab"
echo "$line" >>/etc/fstab
mount /mnt/ipc
mounted 'the line of /etc/fstab'

# Without systemd, that there is such a unit and that it can be enabled; not `--now`.
export SYSTEMD_OFFLINE=1 HOME="$work/home"
for command in 'systemctl enable --now ipcfs' 'systemctl enable --now mnt-ipc.mount' \
	'systemctl --user enable --now ipcfs'; do
	printed "$command"
	eval "$(echo "$command" | sed 's/ --now//')"
done
find /etc/systemd/system "$HOME" -name '*ipc*' -type l | grep -c . | grep -qx 3 || fail "what is enabled?"

run 'scripts/install --uninstall'
[ ! -e /usr/local/bin/ipcfs ] || fail "it is still there"
echo "the README works as printed"
