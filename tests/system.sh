#!/bin/sh
# The Debian package on a machine of its own, as its administrator would try it: systemd as process 1
# above a copy of this machine's root directory. What happens there stays there: it has namespaces of
# its own, /proc/sys cannot be written, and the copy is in memory.
set -eu
cd "$(dirname "$0")/.."

fail() {
	echo "tests/system.sh: $*" >&2
	exit 1
}

# The new machine: mounts its root directory and becomes its process 1.
if [ "${1-}" = --boot ]; then
	layer=$2
	mount -t tmpfs tmpfs "$layer"
	mkdir "$layer/upper" "$layer/work" "$layer/root"
	root=$layer/root
	mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" overlay "$root"
	mount -t proc proc "$root/proc"
	mount --bind "$root/proc/sys" "$root/proc/sys"
	mount -o remount,bind,ro "$root/proc/sys"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	for directory in run tmp var/log; do
		mount -t tmpfs -o mode=1777 tmpfs "$root/$directory"
	done
	mount -t tmpfs -o mode=755 tmpfs "$root/dev"
	mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
	mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
	mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
	for node in null zero full random urandom tty; do
		: >"$root/dev/$node"
		mount --bind "/dev/$node" "$root/dev/$node"
	done
	# As udev makes it: for everybody. Without udev it is root's alone.
	mknod -m 666 "$root/dev/fuse" c 10 229
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	# Nothing of what this machine starts by itself.
	rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires
	rm -f "$root/usr/sbin/policy-rc.d"
	: >"$root/etc/fstab"
	: >"$root/etc/machine-id"
	mkdir -p "$root/srv/ipcfs/target/release"
	cp -R README.md CHANGELOG.md LICENSE docs tests scripts systemd "$root/srv/ipcfs"
	cp -R target/debian target/manual "$root/srv/ipcfs/target"
	cp target/release/ipcfs "$root/srv/ipcfs/target/release"
	cd "$root"
	mkdir -p old
	pivot_root . old
	exec env -i container=ipcfs-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		sh -c 'umount -l /old; exec "$@"' - \
		/lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=no
fi

if [ "${1-}" != --inside ]; then
	if [ "${1-}" != --unshared ]; then
		# The package, as Debian's own checks see it. That it closes no bug of Debian's is as it should be.
		scripts/package >target/package.log 2>&1 || fail "scripts/package: $(cat target/package.log)"
		lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs \
			target/debian/*.deb
		exec unshare --mount --propagation private "$0" --unshared
	fi
	layer=$(mktemp -d)
	mkdir "$layer/cgroup"
	mount -t cgroup2 cgroup2 "$layer/cgroup"
	group=$layer/cgroup/ipcfs-test-$$
	mkdir "$group"
	machine=
	# shellcheck disable=SC2317 # the trap
	clean_up() {
		[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null || true
		echo 1 >"$group/cgroup.kill"
		while [ -d "$group" ]; do
			find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
		done
		umount "$layer/cgroup"
		rm -rf --one-file-system "$layer"
	}
	trap clean_up EXIT
	mkdir "$layer/machine"
	sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' - "$group" \
		setpriv --pdeathsig KILL unshare --mount --ipc --pid --uts --net --cgroup --fork --kill-child \
		--propagation private "$0" --boot "$layer/machine" </dev/null &
	machine=$!
	# In it, once its systemd has begun to listen.
	inside() {
		nsenter -t "$(pgrep -P "$machine")" -a --root --wd env -i \
			PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
	}
	deadline=$(($(date +%s) + 60))
	until inside systemctl is-system-running 2>/dev/null | grep -Eqx 'running|degraded'; do
		[ "$(date +%s)" -lt "$deadline" ] || fail "systemd does not start: $(inside systemctl --no-pager list-jobs 2>&1)"
		sleep .1
	done
	inside /srv/ipcfs/tests/system.sh --inside
	exit
fi

# From here on on the new machine.
# shellcheck disable=SC2317 # the trap
tell() {
	status=$?
	set +x
	[ "$status" = 0 ] || journalctl --no-pager --output=short-monotonic | tail -n 60 >&2
}
trap tell EXIT
set -x

# eventually COMMAND...: until it succeeds.
eventually() {
	tries=0
	until "$@" 2>/dev/null; do
		tries=$((tries + 1))
		[ "$tries" -lt 600 ] || fail "it never happened that: $*"
		sleep .05
	done
}

mounted() {
	[ "$(findmnt -no FSTYPE --mountpoint "$1" | tail -n 1)" = fuse.ipcfs ]
}

not() {
	! "$@"
}

# Whether the service has been restarted $1 times and is there.
restarted() {
	[ "$(systemctl show --property=NRestarts --value ipcfs)" = "$1" ] &&
		systemctl is-active ipcfs && mounted /mnt/ipc
}

# What is installed and configured; dpkg's and systemd's own records left out.
files() {
	find /etc /usr /var/lib -xdev \( -path /var/lib/dpkg -o -path /var/lib/systemd \
		-o -path /var/lib/apt -o -path '*/man-db/*' \) -prune -o -print | sort
}

# Whatever the mount on $1 is asked for, by root and by a user, each kind and what needs more rights
# than others: the same must come out however ipcfs was started.
use() (
	cd "$1"
	runuser -u tester -- sh -ec '
		umask 027
		printf one >mq/t; printf one >sysv/msg/77; echo 3 >sem/t; touch sysv/sem/77 fifo/t
		printf one >shm/t; truncate -s 64K sysv/shm/77
		chmod 600 mq/t; stat -c "%n %a %U" */t sysv/*/*
	'
	chown root:tester mq/t sysv/msg/0x0000004d
	stat -c '%n %U %G' mq/t sysv/msg/77
	cat ctl/sysv/msg/77/peek
	runuser -u tester -- cat mq/t && fail "that is root's alone"
	cat mq/t sysv/msg/77
	python3 -c '
import mmap
for name in "shm/t", "sysv/shm/77":
    with open(name, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 3)
        memory[:] = b"two"
        print(open(name, "rb").read(3))
'
	exec 9<mq/t
	cut -f 2 ctl/mq/t/users
	cat ctl/orphans ctl/summary ctl/limits.json ctl/metrics >/dev/null
	rm ./*/t sysv/*/*
)

# Once more as systemd's own tests do it: a user's manager without PAM.
as_tester() {
	runuser -u tester -- env XDG_RUNTIME_DIR=/run/user/4242 "$@"
}

useradd --uid 4242 --create-home --shell /bin/sh tester
files >/tmp/before
dpkg -i target/debian/*.deb
[ -s /var/lib/dpkg/info/ipcfs.md5sums ]
[ -z "$(dpkg -V ipcfs)" ]
ipcfs -V
ipcfs --check

# By hand, in the background: its log goes to the journal.
ipcfs /mnt
use /mnt >/tmp/by-hand
cat /tmp/by-hand
umount /mnt

# The service: it works when its start has returned, may do all it has to, and is there again when it
# has died, over what it has left.
not systemctl is-enabled ipcfs
systemctl enable --now ipcfs
mounted /mnt/ipc
use /mnt/ipc >/tmp/by-service
diff /tmp/by-hand /tmp/by-service
echo kept >/mnt/ipc/mq/jobs
pid=$(systemctl show --property=MainPID --value ipcfs)
cat /mnt/ipc/mq/jobs /mnt/ipc/mq/jobs >/tmp/taken 2>&1 &
eventually grep -q kept /tmp/taken
kill -9 "$pid"
not wait $!
eventually restarted 1
echo again >/mnt/ipc/mq/jobs
# With its guard.
systemctl kill --signal=KILL ipcfs
eventually restarted 2
[ "$(cat /mnt/ipc/mq/jobs)" = again ]
[ "$(grep -c ' /mnt/ipc ' /proc/self/mounts)" = 1 ]
# What it gives up it may give up under the service's restrictions, too.
journalctl --unit=ipcfs --no-pager >/tmp/journal
not grep -E 'WARN|ERROR' /tmp/journal
# The other unit has nothing to do as long as it is there.
systemctl start mnt-ipc.mount
[ "$(grep -c ' /mnt/ipc ' /proc/self/mounts)" = 1 ]
# It ends at once, whoever waits.
timeout 20 cat /mnt/ipc/mq/jobs &
eventually grep -q . /mnt/ipc/ctl/mq/jobs/waiters
systemctl stop ipcfs
not wait $!
[ "$(systemctl show --property=Result --value ipcfs)" = success ]
not mounted /mnt/ipc

# The mount unit.
systemctl start mnt-ipc.mount
findmnt -no SOURCE,FSTYPE --mountpoint /mnt/ipc
mounted /mnt/ipc
use /mnt/ipc >/tmp/by-mount
diff /tmp/by-hand /tmp/by-mount
systemctl stop mnt-ipc.mount
not mounted /mnt/ipc
eventually not pgrep -x ipcfs

# A line of /etc/fstab, as mount(8) and as systemd read it.
mkdir /mnt/there
echo 'objects /mnt/there fuse.ipcfs mq_maxmsg=5,noexec,nofail,x-systemd.device-timeout=5 0 0' >/etc/fstab
for command in 'mount /mnt/there' 'mount -a' 'systemctl start mnt-there.mount'; do
	systemctl daemon-reload
	$command
	findmnt -no SOURCE,FSTYPE,OPTIONS --mountpoint /mnt/there
	[ "$(findmnt -nro SOURCE,FSTYPE --mountpoint /mnt/there)" = 'objects fuse.ipcfs' ]
	findmnt -no OPTIONS --mountpoint /mnt/there | grep -q noexec
	touch /mnt/there/mq/q
	grep -x maxmsg=5 /mnt/there/ctl/mq/q/status
	rm /mnt/there/mq/q
	umount /mnt/there
	eventually not pgrep -x ipcfs
done

# By the helper's other name, and what is not possible.
mount -t ipcfs -o ro objects /mnt/there
findmnt -no FSTYPE,OPTIONS --mountpoint /mnt/there
not touch /mnt/there/mq/q
mount -o remount,rw /mnt/there 2>/tmp/error && fail "it was remounted"
cat /tmp/error
grep -q 'remounting is not possible; umount it and mount it again' /tmp/error
umount /mnt/there
mount -t fuse.ipcfs -o frobnicate objects /mnt/there 2>/tmp/error && fail "an unknown option"
grep 'unknown mount option "frobnicate"' /tmp/error

# In the background it logs to the journal.
RUST_LOG=info ipcfs /mnt/there
kill "$(pgrep -x ipcfs)"
eventually not pgrep -x ipcfs
logged() {
	journalctl --identifier=ipcfs --no-pager | grep 'unmounting after SIGTERM'
}
eventually logged

# A user's own: by hand, and by their own manager.
as_tester sh -exc '
	mkdir -p ~/ipc
	sudo -n true 2>/dev/null && exit 1
	ipcfs --check ~/ipc
	ipcfs ~/ipc
	echo mine >~/ipc/mq/mine
	cat ~/ipc/mq/mine
	rm ~/ipc/mq/mine
	findmnt -no SOURCE,FSTYPE ~/ipc
	fusermount3 -u ~/ipc
'
cat >/run/systemd/system/tester.service <<-END
	[Service]
	Type=notify
	User=tester
	Delegate=yes
	RuntimeDirectory=user/4242
	Environment=XDG_RUNTIME_DIR=/run/user/4242
	ExecStart=/lib/systemd/systemd --user
END
systemctl daemon-reload
systemctl start tester
as_tester systemctl --user enable --now ipcfs
mounted /home/tester/ipc
as_tester sh -exc 'echo mine >~/ipc/mq/mine; cat ~/ipc/mq/mine; rm ~/ipc/mq/mine'
as_tester systemctl --user kill --signal=KILL ipcfs
eventually as_tester sh -c 'ls ~/ipc/mq && systemctl --user is-active ipcfs'
as_tester systemctl --user stop ipcfs
not mounted /home/tester/ipc
as_tester systemctl --user disable ipcfs
systemctl stop tester

# Taking the package away ends what its units have mounted; what was enabled is so again when it comes
# back; a purge leaves nothing.
systemctl start ipcfs
dpkg -r ipcfs
not mounted /mnt/ipc
not pgrep -x ipcfs
[ ! -e /usr/bin/ipcfs ]
dpkg -i target/debian/*.deb
systemctl is-enabled ipcfs
# An upgrade leaves alone what is mounted.
systemctl start ipcfs
pid=$(systemctl show --property=MainPID --value ipcfs)
dpkg -i target/debian/*.deb
[ "$(systemctl show --property=MainPID --value ipcfs)" = "$pid" ]
dpkg -P ipcfs
not mounted /mnt/ipc
files >/tmp/after
diff /tmp/before /tmp/after

# The same without the package.
scripts/install --no-build
systemctl enable --now ipcfs
mounted /mnt/ipc
use /mnt/ipc >/tmp/installed
diff /tmp/by-hand /tmp/installed
scripts/install --uninstall
not mounted /mnt/ipc
files >/tmp/after
diff /tmp/before /tmp/after | grep '^[<>]' | while read -r _ path; do
	[ -d "$path" ] || fail "$path has come or gone"
done
set +x
echo "the package works"
