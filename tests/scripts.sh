#!/bin/sh
# The scripts and what they install, tried out as root, in IPC and mount namespaces of their own.
set -eu
cd "$(dirname "$0")/.."
if [ "${1-}" != --unshared ]; then
	exec unshare --ipc --mount --propagation private "$0" --unshared
fi
work=$(mktemp -d)
trap 'umount -l "$work/mnt" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT

fail() {
	echo "tests/scripts.sh: $*" >&2
	exit 1
}

mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run

# The first command of the README, also a second time on the same directory.
for _ in 1 2; do
	scripts/quickstart "$work/mnt" >"$work/output" || fail "quickstart: $(cat "$work/output")"
	grep -q 'HELLO FROM THE SHELL' "$work/output" || fail "quickstart: $(cat "$work/output")"
done
grep -q 'mounted on .* already' "$work/output" || fail "quickstart has mounted twice"
umount "$work/mnt"

# Too old a cargo: one sentence that says where to get one.
mkdir "$work/old"
printf '#!/bin/sh\necho "cargo 1.63.0"\n' >"$work/old/cargo"
printf '#!/bin/sh\necho "  Candidate: 0.66.0+ds1-1"\n' >"$work/old/apt-cache"
chmod +x "$work/old/cargo" "$work/old/apt-cache"
PATH=$work/old:$PATH scripts/quickstart >"$work/output" 2>&1 && fail "1.63 is not new enough"
grep -q 'needs cargo 1.85 or newer.*rustup' "$work/output" || fail "$(cat "$work/output")"

# Installed below a directory, everything works from there, and all of it can be taken away.
scripts/install --destdir "$work/root" >"$work/output" 2>&1 || fail "$(cat "$work/output")"
PATH=$work/root/usr/local/bin:$PATH
[ "$(ipcfs -V)" = "ipcfs $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)" ]
[ "$(readlink "$work/root/usr/sbin/mount.ipcfs")" = /usr/local/bin/ipcfs ]
mandoc -T lint -W warning "$work/root/usr/local/share/man/man5/ipcfs.5" \
	"$work/root/usr/local/share/man/man8/ipcfs.8"
bash -c '. "$0" && complete -p ipcfs >/dev/null' \
	"$work/root/usr/local/share/bash-completion/completions/ipcfs"

# Every mount option is in the man page.
ipcfs --help | tr -s ' \n' ' ' | sed 's/.*separated by commas: \(.*\), and what.*/\1/' |
	tr -d '`' | tr ',' '\n' | while read -r option; do
	grep -q "^.fB${option%%=*}" "$work/root/usr/local/share/man/man8/ipcfs.8" ||
		fail "ipcfs.8 does not know -o $option"
done

# As fstab and mount(8) do it: they look for ipcfs where the shell does without PATH.
mount -t tmpfs tmpfs /usr/local
mkdir /usr/local/bin
ln -s "$work/root/usr/local/bin/ipcfs" /usr/local/bin/ipcfs
mount -t fuse.ipcfs ipcfs "$work/mnt" -o mq_maxmsg=5,noexec
[ "$(findmnt -no SOURCE,FSTYPE "$work/mnt" | tr -s ' ')" = "ipcfs fuse.ipcfs" ]
findmnt -no OPTIONS "$work/mnt" | grep -q noexec
touch "$work/mnt/mq/queue"
grep -qx maxmsg=5 "$work/mnt/ctl/mq/queue/status"
rm "$work/mnt/mq/queue"
! mount -o remount,ro "$work/mnt" 2>"$work/output" || fail "it is not to be remounted"
umount "$work/mnt"

# systemd: the units are sound, and the daemon says when the mount works.
if command -v systemd-analyze >/dev/null; then
	units=$work/root/usr/local/lib/systemd
	sed -i "s|/usr/local/bin|$work/root&|" "$units/system/ipcfs.service" "$units/user/ipcfs.service"
	systemd-analyze verify --man=no "$units/system/ipcfs.service" "$units/system/mnt-ipc.mount"
	XDG_RUNTIME_DIR=$work systemd-analyze verify --man=no --user "$units/user/ipcfs.service"
fi

scripts/install --destdir "$work/root" --uninstall
left=$(find "$work/root" ! -type d)
[ -z "$left" ] || fail "left behind: $left"
echo "the scripts work"
