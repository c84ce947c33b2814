# shellcheck shell=sh
# What the scripts have in common: finding what they need and installing what is missing.
# To be sourced with $me set to the name of the script.

# The oldest cargo that builds ipcfs; Cargo.toml says the same.
oldest=1.85

say() {
	printf '\n==> %s\n' "$*"
}

die() {
	printf '%s: %s\n' "${me:?}" "$*" >&2
	exit 1
}

have() {
	command -v "$1" >/dev/null 2>&1
}

is_root() {
	[ "$(id -u)" = 0 ]
}

# Installs Debian packages; says which and how if it may not.
install_packages() {
	have apt-get || die "missing: $*; install what your system calls these Debian packages"
	as_root=
	if ! is_root; then
		have sudo || die "missing: $*; as root: apt-get install $*"
		as_root=sudo
	fi
	say "installing $*"
	# A fresh machine has no package lists, or old ones, whose packages are gone.
	apt_install "$@" 2>/dev/null || {
		$as_root apt-get -qq update
		apt_install "$@"
	} || die "apt-get could not install $*; its message is above"
}

apt_install() {
	# shellcheck disable=SC2086 # nothing, or sudo
	${as_root-} env DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -y -o=Dpkg::Use-Pty=0 --no-install-recommends install "$@" >/dev/null
}

# link_flat FILE.md...: makes the links of documentation that is installed in one directory lead there;
# what is not installed is no link any more.
link_flat() {
	sed -i -e 's|](docs/|](|g' -e 's|\[\([^]]*\)\](\.\./[^)]*)|\1|g' "$@"
}

# need COMMAND:PACKAGE[,PACKAGE] ...: installs, at once, the packages of the commands that are missing.
need() {
	missing=
	for word; do
		have "${word%%:*}" || missing="$missing $(echo "${word#*:}" | tr , ' ')"
	done
	# shellcheck disable=SC2086 # a list of words
	[ -z "$missing" ] || install_packages $missing
}

# Whether version $1 is at least version $2.
at_least() {
	[ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# The version of the cargo that is there; nothing if there is none that works.
cargo_version() {
	cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p'
}

# The version of the cargo that apt-get would install.
cargo_candidate() {
	LC_ALL=C apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p'
}

# Sees to it that there is a cargo that is new enough, with the commands given (clippy, fmt).
need_cargo() {
	version=$(cargo_version)
	if [ -z "$version" ] && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
		PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
		version=$(cargo_version)
	fi
	if [ -z "$version" ] || ! at_least "$version" "$oldest"; then
		there=${version:+, this one is $version}
		offered=
		if have apt-get; then
			offered=$(cargo_candidate)
			if [ -z "$offered" ] && is_root; then
				apt-get -qq update || true
				offered=$(cargo_candidate)
			fi
		fi
		if [ -z "$offered" ] || ! at_least "$offered" "$oldest"; then
			[ -z "$offered" ] || there="$there, the package here is $offered"
			die "ipcfs needs cargo $oldest or newer$there; get one from https://rustup.rs" \
				"(curl -sSf https://sh.rustup.rs | sh) and run this again"
		fi
		# What cargo fetches comes over https.
		install_packages cargo ca-certificates
		hash -r
		version=$(cargo_version)
		at_least "${version:-0}" "$oldest" ||
			die "the cargo found first in PATH is older than $oldest; take it out of PATH"
	fi
	for component; do
		cargo "$component" --version >/dev/null 2>&1 || install_component "$component"
	done
}

install_component() {
	case $1 in
	fmt) set -- rustfmt rustfmt ;;
	*) set -- "$1" "rust-$1" ;;
	esac
	if have rustup; then
		rustup component add "$1"
	else
		install_packages "$2"
	fi
}

# Sees to it that file systems can be mounted in namespaces of their own.
need_mounting() {
	is_root || die "it mounts file systems in namespaces of its own; run it as root"
	[ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
	[ -e /dev/fuse ] ||
		die "/dev/fuse is missing; load the kernel's FUSE module (modprobe fuse), or in a" \
			"container pass the device in"
	unshare --ipc --mount --propagation private true ||
		die "IPC and mount namespaces are not permitted here; in a container, run it privileged"
}

# Installs what the tests need besides cargo and Python's packages, all at once.
need_test_tools() {
	packages=
	perl -MIPC::Msg -e 1 2>/dev/null || packages="$packages perl"
	python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"
	python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \
		2>/dev/null || packages="$packages python3-dev"
	for tool in cc:gcc fusermount3:fuse3 jq shellcheck mandoc xxd busybox dash zsh fish strace \
		pgrep:procps unshare:util-linux setpriv:util-linux findmnt:util-linux \
		lsns:util-linux nsenter:util-linux runuser:util-linux mount useradd:passwd stress-ng \
		systemd-analyze:systemd lintian dpkg-shlibdeps:dpkg-dev strip:binutils \
		curl ssh:openssh-client sshfs dropbear:dropbear-bin; do
		have "${tool%:*}" || packages="$packages ${tool#*:}"
	done
	[ -e /usr/lib/sftp-server ] || packages="$packages openssh-sftp-server"
	# shellcheck disable=SC2086 # a list of words
	[ -z "$packages" ] || install_packages $packages libc6-dev ca-certificates
	# fusermount3 reads it; a minimal system may not have it.
	[ -e /etc/mtab ] || ln -s ../proc/self/mounts /etc/mtab

	# promtool is a package of its own since Debian 13. Before, it came with the server, which would
	# be started: the program alone is taken out of it.
	tools=$PWD/target/tools
	PATH=$PATH:$tools/usr/bin
	have promtool || apt_install promtool 2>/dev/null || {
		say "unpacking promtool from Debian's package prometheus"
		have apt-get || die "missing: promtool, which comes with Prometheus"
		mkdir -p "$tools"
		(
			cd "$tools" || exit
			apt-get -qq download prometheus 2>/dev/null || {
				apt-get -qq update
				apt-get -qq download prometheus
			}
			dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
			rm prometheus_*.deb
		)
	}
}

# Makes target/venv, a Python with posix_ipc and sysv_ipc as tests/requirements.txt has them, built
# from their sources, which stay in target/venv/src with the tests that are part of them.
need_python() {
	venv=target/venv
	if cmp -s tests/requirements.txt "$venv/requirements.txt" &&
		"$venv/bin/python" -c 'import posix_ipc, sysv_ipc' 2>/dev/null; then
		return
	fi
	say "making $venv with posix_ipc and sysv_ipc"
	rm -rf "$venv"
	python3 -m venv "$venv"
	venv_pip download --no-deps --no-binary posix_ipc,sysv_ipc --require-hashes \
		--requirement tests/requirements.txt --dest "$venv/src"
	# Without this the compiler does not find semtimedop(2), and sysv_ipc is built without timeouts.
	CC='cc -D_GNU_SOURCE' venv_pip install --no-deps "$venv"/src/*.tar.gz
	for archive in "$venv"/src/*.tar.gz; do
		tar -x --no-same-owner -C "$venv/src" -f "$archive"
	done
	cp tests/requirements.txt "$venv/"
}

venv_pip() {
	"$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}
