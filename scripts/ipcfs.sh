# Functions for POSIX shell scripts that work on a mount of ipcfs; to be sourced:
#
#     . ipcfs.sh
#     cat "/mnt/ipc/sysv/msg/$(ipc_ftok /etc/hosts A)"

# ipc_ftok PATH ID
#
# Prints the key that ftok(3) makes of a file and a number: the name of the object in sysv/. ID is a
# number as C has it (65, 0x41, 0101), of which the lowest eight bits count, or a character that is
# no digit (A), as in ftok(path, 'A').
ipc_ftok() {
	[ $# -eq 2 ] || { echo 'usage: ipc_ftok PATH ID' >&2; return 2; }
	case $2 in
	0[xX]?*) case ${2#??} in *[!0-9a-fA-F]*) set -- "$1" '' ;; esac ;;
	[!0-9]) set -- "$1" "$(LC_ALL=C printf '%d' "'$2")" ;;
	*[!0-9]* | 0*[89]*) set -- "$1" '' ;;
	esac
	[ -n "$2" ] || { echo 'ipc_ftok: ID is a number or one character' >&2; return 2; }
	# What stat(1) prints is st_dev and st_ino; ftok follows links.
	ipc_ftok_file=$(stat -L -c '%d %i' -- "$1") || return
	printf '0x%08x\n' $(((${ipc_ftok_file#* } & 0xffff) |
		((${ipc_ftok_file% *} & 0xff) << 16) | (($2 & 0xff) << 24)))
	unset ipc_ftok_file
}
