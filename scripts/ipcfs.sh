# shellcheck shell=sh
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

# ipc_lock [-n] [-w SECONDS] NAME COMMAND [ARGUMENT]...
#
# Runs COMMAND, which may be a function, while it holds a unit of the semaphore NAME, and returns
# its exit status. However this ends, SIGKILL included, the unit is given back when the last of the
# processes that COMMAND has left is gone: they all have the open file (descriptor 9). Those who
# wait are served in their order. A semaphore that is missing is made, with the value 1. The mount
# is $IPCFS, or /mnt/ipc. COMMAND runs in a subshell.
#
#     ipc_lock -w 10 backup rsync -a /home/ /backup/
#
# -n            does not wait
# -w SECONDS    waits no longer
#
# Returns 75 (EX_TEMPFAIL) if the unit was not to be had in time, 69 (EX_UNAVAILABLE) if there is no
# such semaphore or no permission to write it, 64 (EX_USAGE) for wrong arguments.
ipc_lock() (
	hold=hold seconds='' OPTIND=1
	while getopts nw: option; do
		case $option in
		n) hold=tryhold ;;
		w) seconds=$OPTARG ;;
		*) exit 64 ;;
		esac
	done
	shift $((OPTIND - 1))
	case ${seconds:-0} in *[!0-9.]*) set -- ;; esac
	case ${1-} in '' | */* | . | ..) set -- ;; esac
	if [ $# -lt 2 ]; then
		echo 'usage: ipc_lock [-n] [-w SECONDS] NAME COMMAND [ARGUMENT]...' >&2
		exit 64
	fi
	mount=${IPCFS:-/mnt/ipc} name=$1
	shift
	file=$mount/ctl/sem/$name/$hold
	if ! [ -e "$file" ]; then
		# Made with its value in one step; somebody else may be quicker.
		quoted=$(printf '%s\n' "$name" | sed "s/'/'\\\\''/g")
		(echo "sem/'$quoted' value=1" >"$mount/ctl/create") 2>/dev/null
	fi
	if ! [ -r "$file" ]; then
		echo "ipc_lock: $mount/sem/$name: no such semaphore, or no permission to write it" >&2
		exit 69
	fi
	# That the open has failed or was ended, the exit status says.
	exec 8>&2 2>/dev/null
	status=75
	if [ -z "$seconds" ] || [ "$hold" = tryhold ]; then
		{
			"$@" 2>&8 8>&-
			status=$?
		} 9<"$file"
		exit "$status"
	fi
	# A shell cannot be made to give up an open, but a process can: this one, ended by a watchdog,
	# which is gone before COMMAND begins.
	(
		read -r me _ </proc/self/stat
		{
			over='' sleep=''
			trap 'over=1; kill "$sleep"' TERM
			cd /
			sleep "$seconds" &
			sleep=$!
			[ -z "$over" ] || kill "$sleep"
			wait "$sleep"
			[ -z "$over" ] || exit
			# Should the other have been killed, its number may be somebody else's by now.
			read -r stat </proc/self/stat
			stat=${stat##*) ? }
			[ "${stat%% *}" != "$me" ] || kill -ALRM "$me"
		} >/dev/null 8>&- &
		watchdog=$!
		{
			kill "$watchdog"
			wait "$watchdog"
			"$@" 2>&8 8>&-
			status=$?
		} 9<"$file"
		exit "$status"
	)
	status=$?
	# 128 + SIGALRM.
	[ "$status" -ne 142 ] || status=75
	exit "$status"
)
