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
share=$work/root/usr/local/share
PATH=$work/root/usr/local/bin:$PATH
[ "$(ipcfs -V)" = "ipcfs $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)" ]
[ "$(readlink "$work/root/usr/sbin/mount.ipcfs")" = /usr/local/bin/ipcfs ]
mandoc -T lint -W warning "$share/man/man5/ipcfs.5" "$share/man/man8/ipcfs.8" "$share/man/man8/mount.ipcfs.8"
for file in ipcfs/ipcfs.sh doc/ipcfs/README.md doc/ipcfs/semantics.md doc/ipcfs/LICENSE; do
	[ -s "$share/$file" ] || fail "$file is not installed"
done

# The shells complete the options, each by itself.
options=$(ipcfs --help | sed -n 's/^ *\(-[a-z], \)\{0,1\}\(--[a-z-]*\).*/\2/p' | grep -vx -e --help -e --version)
bash --norc -c '. "$0"; COMP_WORDS=(ipcfs --) COMP_CWORD=1; _ipcfs ipcfs -- ipcfs
	printf "%s\n" "${COMPREPLY[@]}"' "$share/bash-completion/completions/ipcfs" >"$work/bash"
# shellcheck disable=SC2016 # the other shell's
fish --no-config -c 'source $argv; complete --do-complete "ipcfs --"' \
	"$share/fish/vendor_completions.d/ipcfs.fish" >"$work/fish"
# zsh has them in its line editor only: on a terminal, where a Tab is typed.
# shellcheck disable=SC2016
timeout 60 zsh -f -c '
	zmodload zsh/zpty
	zpty shell "TERM=dumb zsh -f -i"
	zpty -w shell "fpath=($0 \$fpath); autoload -Uz compinit; compinit -D -u; LISTMAX=1000"
	zpty -w shell "stty cols 200; print rea\"\"dy"
	zpty -r -m shell seen "*ready*"
	zpty -w -n shell "ipcfs --"$'"'\\t'"'
	zpty -r -m shell seen "*--version*"
	print -r -- "$seen"' "$share/zsh/site-functions" >"$work/zsh"
for option in $options; do
	for shell in bash zsh fish; do
		grep -q -e "$option" "$work/$shell" || fail "$shell does not complete $option: $(cat "$work/$shell")"
	done
	grep -q "fB$(echo "$option" | sed 's/-/\\\\-/g')" "$share/man/man8/ipcfs.8" ||
		fail "ipcfs.8 does not know $option"
	grep -q -e "$option" README.md || [ "$option" = --foreground ] || [ "$option" = --debug ] ||
		fail "README.md does not know $option"
done

# What mount(8) alone gives is not offered; the names of mount options are, in bash behind a comma as
# well, and directories.
# shellcheck disable=SC2016
for word in - 'ro,' "$work/ro"; do
	bash --norc -c '. "$0"; COMP_WORDS=(ipcfs -o "$1") COMP_CWORD=2
		case $1 in -) _ipcfs ipcfs - ipcfs ;; ro,) _ipcfs ipcfs ro, -o ;; *) _ipcfs ipcfs "$1" ipcfs ;; esac
		printf "%s\n" "${COMPREPLY[@]}"' "$share/bash-completion/completions/ipcfs" "$word"
done >"$work/bash"
! grep -qx -e -n -e -t -e -N "$work/bash" || fail "bash offers hidden options: $(cat "$work/bash")"
grep -qx ro,fifo_dir= "$work/bash" || fail "bash completes no mount options: $(cat "$work/bash")"
grep -qx "$work/root" "$work/bash" || fail "bash completes no directories: $(cat "$work/bash")"
! grep -q -e '-n\[' -e '-t+' "$share/zsh/site-functions/_ipcfs" || fail "zsh offers hidden options"
! grep -q -e '-s n ' -e '-s t ' "$share/fish/vendor_completions.d/ipcfs.fish" || fail "fish offers hidden options"
# shellcheck disable=SC2016
fish --no-config -c 'source $argv; complete --do-complete "ipcfs -o "' \
	"$share/fish/vendor_completions.d/ipcfs.fish" | grep -q '^fifo_dir=' || fail "fish completes no mount options"
grep -q 'fifo_dir=' "$share/zsh/site-functions/_ipcfs" || fail "zsh completes no mount options"

# Every mount option is in the man page.
ipcfs --help | tr -s ' \n' ' ' | sed 's/.*separated by commas: \(.*\), and what.*/\1/' |
	tr ',' '\n' | while read -r option; do
	grep -q "^.fB${option%%=*}" "$share/man/man8/ipcfs.8" || fail "ipcfs.8 does not know -o $option"
	grep -q "^| .-o ${option%%=*}" README.md || fail "README.md does not know -o $option"
done

# As fstab and mount(8) do it: they look for ipcfs where the shell does without PATH.
mount -t tmpfs -o mode=755 tmpfs /usr/local
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

# systemd: the units are sound, and the service is confined as far as one that mounts can be.
units=$work/root/usr/local/lib/systemd
sed -i "s|/usr/local/bin|$work/root&|" "$units/system/ipcfs.service" "$units/user/ipcfs.service"
systemd-analyze verify --man=no "$units/system/ipcfs.service" "$units/system/mnt-ipc.mount"
XDG_RUNTIME_DIR=$work systemd-analyze verify --man=no --user "$units/user/ipcfs.service"
systemd-analyze security --no-pager --offline=yes --threshold=50 systemd/ipcfs.service \
	>"$work/output" || fail "$(cat "$work/output")"

# The links in the documentation lead somewhere there.
(
	cd "$share/doc/ipcfs"
	grep -ho '\](\([^)#]*\)' ./*.md | sed 's/..//' | grep -v '^https\{0,1\}:' | sort -u |
		while read -r target; do
			[ -z "$target" ] || [ -e "$target" ] || fail "a link in the documentation leads to $target"
		done
)

scripts/install --destdir "$work/root" --uninstall
left=$(find "$work/root" -mindepth 1)
[ -z "$left" ] || fail "left behind: $left"
# Elsewhere, and a second time; what others have put there stays.
mkdir -p "$work/root/usr/bin"
for prefix in /usr "/opt/a|b&c" "$HOME/.local"; do
	scripts/install --no-build --destdir "$work/root" --prefix "$prefix"
	scripts/install --no-build --destdir "$work/root" --prefix "$prefix"
	unit=$work/root$prefix/lib/systemd/system/ipcfs.service
	[ "$prefix" != "$HOME/.local" ] || unit=$work/root${XDG_DATA_HOME:-$HOME/.local/share}/systemd/user/ipcfs.service
	grep -qF "ExecStart=$prefix/bin/ipcfs " "$unit" || fail "$unit does not start $prefix/bin/ipcfs"
	[ "$(readlink "$work/root/usr/sbin/mount.ipcfs")" = "$([ "$prefix" != /usr ] || echo /usr/bin/ipcfs)" ]
	scripts/install --destdir "$work/root" --prefix "$prefix" --uninstall
	left=$(find "$work/root" -mindepth 1 ! -path "$work/root/usr" ! -path "$work/root/usr/bin")
	[ -z "$left" ] || fail "left behind: $left"
done
[ -d "$work/root/usr/bin" ] || fail "what was there before has been removed"
# A user is told before anything is done.
setpriv --reuid=4242 --regid=4242 --clear-groups scripts/install --no-build 2>"$work/output" &&
	fail "a user has installed it for all"
grep -q 'no permission to write to /usr/local; run it as root' "$work/output" || fail "$(cat "$work/output")"
echo "the scripts work"
