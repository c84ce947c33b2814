# shellcheck shell=sh
# Functions for shell scripts that work on a mount of ipcfs; to be sourced, by dash, bash, busybox's
# ash, zsh or another POSIX shell. They need coreutils and nothing else.
#
#     . ipcfs.sh
#     ipc_send -p 9 /mnt/ipc/mq/jobs 'resize cat.jpg'   # one message
#     job=$(ipc_recv -w 5 /mnt/ipc/mq/jobs)             # one message
#     ipc_wait /mnt/ipc/mq/jobs                         # until there is one
#     ipc_each /mnt/ipc/mq/jobs work                    # the command `work` for each message
#     ipc_lock backup rsync -a /home/ /backup/          # one at a time
#     key=$(ipc_ftok /etc/hosts A)                      # ftok(3)
#
# PATH is a message queue in the mount, mq/NAME or sysv/msg/KEY, given as any file is: absolute or
# relative, through links, whatever bytes its name has, behind `--` if it begins with a dash.
#
# Each returns 0, or
#
#     64 (EX_USAGE)        the arguments are wrong
#     69 (EX_UNAVAILABLE)  it cannot be done: no such queue, no permission, a message too long; a
#                          sentence on standard error says which
#     75 (EX_TEMPFAIL)     it could not be done at once (-n) or in time (-w SECONDS); nothing has
#                          been sent or taken
#
# Ctrl-C ends each at once, and they end with the shell that has called them: what waits for a message
# takes none once that is gone. SECONDS may have a fraction. All names begin with ipc_ or _ipc_.

# They run in a subshell, whose variables are meant to end with it, and not as the last command of the
# function: some shells would make no process of their own for it then, whose parent is the caller.
# shellcheck disable=SC2030,SC2031

# ipc_send [-p PRIORITY | -t TYPE] [-n] [-w SECONDS] PATH [TEXT]
#
# Sends one message: TEXT, or else all of standard input, byte for byte. No newline is added, and
# where there is nothing it is an empty message. Waits while the queue is full. A queue that is
# missing is made.
#
# -p PRIORITY   in mq/: 0 to 32767, else 0
# -t TYPE       in sysv/msg/: above 0, else 1
# -n            does not wait
# -w SECONDS    waits no longer, be it for standard input or for room in the queue
ipc_send() {
	(_ipc_send "$@")
	return
}

_ipc_send() {
	_ipc_begin ipc_send
	ipc_tag='' ipc_of=''
	while getopts :np:t:w: ipc_option; do
		case $ipc_option in
		n) ipc_at_once=yes ;;
		p) ipc_tag=$OPTARG ipc_of=mq ;;
		t) ipc_tag=$OPTARG ipc_of=sysv/msg ;;
		w) ipc_limit=${OPTARG:-wrong} ;;
		*) ipc_of=usage ;;
		esac
	done
	shift $((OPTIND - 1)) && OPTIND=1
	_ipc_hundredths && case $ipc_of:$ipc_tag:$# in
	:*:[12] | mq:?*:[12] | sysv/msg:?*:[12]) case $ipc_tag in *[!0-9]*) false ;; esac ;;
	*) false ;;
	esac || _ipc_usage '[-p PRIORITY | -t TYPE] [-n] [-w SECONDS] PATH [TEXT]' || exit
	_ipc_find "$1" || exit
	_ipc_strip "$ipc_tag"
	ipc_tag=$ipc_stripped ipc_file=$ipc_queue
	case $ipc_of in
	'') ;;
	"$ipc_kind")
		[ -e "$ipc_queue" ] || touch -- "$ipc_queue" || exit 69
		case $ipc_kind in
		mq) ipc_file=$ipc_control/priority/$ipc_tag ;;
		*) ipc_file=$ipc_control/type/$ipc_tag ;;
		esac
		;;
	*) _ipc_fail "$1: -p is for mq/, -t for sysv/msg/" 64 || exit ;;
	esac
	if [ $# -eq 2 ]; then
		printf %s "$2" 2>/dev/null | _ipc_put
	else
		_ipc_put
	fi
	ipc_code=$?
	[ "$ipc_code" -ne 1 ] || {
		# A write of no bytes is none: an empty message is an empty line.
		case $ipc_kind in
		mq) ipc_tag=${ipc_tag:-0} ;;
		*) ipc_tag=${ipc_tag:-1} ;;
		esac
		ipc_file=$ipc_control/tagged
		printf '%s\t\n' "$ipc_tag" | _ipc_put
		ipc_code=$?
	}
	exit "$ipc_code"
}

# ipc_recv [-t TYPE] [-n] [-w SECONDS] PATH
#
# Takes one message and prints it, byte for byte. Waits while there is none.
#
# -t TYPE       in sysv/msg/: the oldest of TYPE; -TYPE: of the lowest type up to TYPE; 0: of any
# -n            does not wait
# -w SECONDS    waits no longer
#
# A message is lost if dd, which takes it and prints it, is killed in between or cannot print it:
# where standard output is a file on a full disk, or a pipe whose reader is gone. What has to outlive
# that is for ipc_each. The shell may be killed at any time, but for -t without -w: there dd waits,
# and is left behind. Where messages of other types are queued, -t with -w looks ten times a second.
# Of several who wait any may be served.
ipc_recv() {
	(_ipc_recv "$@")
	return
}

_ipc_recv() {
	_ipc_begin ipc_recv
	ipc_type=''
	while getopts :nt:w: ipc_option; do
		case $ipc_option in
		n) ipc_at_once=yes ;;
		t) ipc_type=$OPTARG ;;
		w) ipc_limit=${OPTARG:-wrong} ;;
		*) ipc_type=wrong ;;
		esac
	done
	shift $((OPTIND - 1)) && OPTIND=1
	_ipc_hundredths && _ipc_is_type && [ $# -eq 1 ] ||
		_ipc_usage '[-t TYPE] [-n] [-w SECONDS] PATH' || exit
	_ipc_find "$1" && _ipc_source || exit
	if [ -n "$ipc_type" ] && [ -z "$ipc_limit" ]; then
		_ipc_take
		exit
	fi
	# What waits takes nothing, and what takes does not wait, so that ending either loses nothing.
	_ipc_born
	_ipc_now
	ipc_end=${ipc_limit:+$((ipc_now + ipc_limit))}
	while :; do
		_ipc_take iflag=nonblock
		ipc_code=$?
		[ "$ipc_code" -eq 75 ] || exit "$ipc_code"
		[ -z "$ipc_end" ] || {
			_ipc_now
			ipc_limit=$((ipc_end - ipc_now))
			[ "$ipc_limit" -gt 0 ] || exit 75
		}
		_ipc_await || exit
		! _ipc_orphaned || exit
		[ -z "$ipc_type" ] || sleep 0.1
	done
}

# ipc_wait [-n] [-w SECONDS] PATH
#
# Waits until there is a message in the queue and takes none.
#
# -n            does not wait: tells whether there is one
# -w SECONDS    waits no longer
ipc_wait() {
	(_ipc_wait "$@")
	return
}

_ipc_wait() {
	_ipc_begin ipc_wait
	while getopts :nw: ipc_option; do
		case $ipc_option in
		n) ipc_at_once=yes ;;
		w) ipc_limit=${OPTARG:-wrong} ;;
		*) ipc_limit=wrong ;;
		esac
	done
	shift $((OPTIND - 1)) && OPTIND=1
	_ipc_hundredths && [ $# -eq 1 ] || _ipc_usage '[-n] [-w SECONDS] PATH' || exit
	_ipc_find "$1" || exit
	if [ "$ipc_limit" = 0 ]; then
		ipc_file=$ipc_control/wait
		_ipc_take iflag=nonblock
	else
		_ipc_await
	fi
}

# ipc_each [-d QUEUE] [-j DIRECTORY] [-n] [-r TIMES] [-t TYPE] [-w SECONDS] PATH COMMAND [ARGUMENT]...
#
# A worker: runs COMMAND, which may be a function, for each message, which is its standard input,
# byte for byte. As many workers as you like may share a queue.
#
# If COMMAND fails, the message goes to the dead letters (-d) and the next one is taken; without -d
# it is given back, as the last of the queue at priority 0 (in sysv/msg/ with -t's TYPE, else 1), and
# ipc_each ends with COMMAND's exit status. So it does if there is no such COMMAND (126, 127).
#
# SIGTERM and SIGHUP end it after the message in work, with 0: in a script also those for $! where it
# has been begun with &, unless there is a trap for SIGTERM there. A shell that has called it without &
# ends as it always does, and the worker after the message in work. Ctrl-C ends COMMAND as well, and
# the message is given back; bash 5.2 may lose one that comes just as a message does: press it again.
#
# Where the disk is too full for a message ipc_each takes none, and ends with 69. It keeps 1 MiB there
# for that; where the file system needs room also to write over a file, as btrfs does, that may not do.
#
# -d QUEUE      where messages go for which COMMAND has failed, made if it is missing
# -j DIRECTORY  a journal for this queue, made if it is missing: each message is in a file there from
#               its receipt to the end of COMMAND. What a worker that is killed leaves there another
#               takes up, when it starts or finds the queue empty; COMMAND may then run twice for a
#               message. Lost, or of more than 4096 bytes only a part, is a message only if dd or
#               tee is killed on its way from queue to journal
# -n            ends once the queue is empty, with 0
# -r TIMES      how often COMMAND is run again before it has failed, else never
# -t TYPE       as for ipc_recv
# -w SECONDS    ends once nothing has come for so long, with 0
ipc_each() {
	_ipc_stat self || :
	# Begun with & in a script it gets SIGTERM here. It cannot be this process that works: it may have
	# more to do, such as to begin another worker should one be killed.
	if [ "$ipc_pid" != "$$" ] && _ipc_ignores QUIT && ! _ipc_ignores TERM && ! _ipc_catches TERM; then
		_ipc_each_and_signals "$@"
	else
		unset ipc_pid ipc_stat ipc_state ipc_started ipc_ignored ipc_caught
		(_ipc_each "$@")
	fi
	return
}

# Runs the worker, and passes on to it what signals this process gets.
_ipc_each_and_signals() {
	ipc_worker='' ipc_signal='' ipc_ender='' ipc_interrupt=''
	# Bash does not ignore it in a function that it begins with &.
	_ipc_ignores INT || ipc_interrupt=INT
	trap _ipc_forward HUP TERM ${ipc_interrupt:+"$ipc_interrupt"}
	(_ipc_each "$@") &
	ipc_worker=$!
	[ -z "$ipc_signal" ] || _ipc_forward
	# A signal ends the wait, but not yet the worker.
	while :; do
		ipc_signal='' ipc_code=0
		wait "$ipc_worker" || ipc_code=$?
		{ [ -n "$ipc_signal" ] && kill -0 "$ipc_worker"; } || break
	done 2>/dev/null
	if [ -n "$ipc_signal" ]; then
		# It has ended before this could wait once more.
		set -- "$ipc_code"
		ipc_code=0
		wait "$ipc_worker" 2>/dev/null || ipc_code=$?
		[ "$ipc_code" -ne 127 ] || ipc_code=$1
	fi
	trap - HUP TERM ${ipc_interrupt:+"$ipc_interrupt"}
	return "$ipc_code"
}

_ipc_forward() {
	ipc_signal=yes
	# No process where there is no worker: $! is about to be asked for.
	[ -n "$ipc_worker" ] || return 0
	# Not before it is prepared.
	_ipc_lives_until "$ipc_worker" _ipc_catches URG
	kill "$ipc_worker" 2>/dev/null || :
	[ -z "$ipc_ender" ] || return 0
	ipc_ender=yes
	_ipc_end "$ipc_worker" 0.1 </dev/null >/dev/null 2>&1 &
}

# Waits until it is so, or the process PID has ended.
_ipc_lives_until() {
	while _ipc_stat "$1" && [ "$ipc_state" != Z ]; do
		! "$2" "$3" || break
		sleep 0.01
	done
}

# Sends SIGTERM to the process PID each so many SECONDS until it has ended. Once is not enough: bash 5.2
# loses a trap while it reads a command substitution, and a child that is being forked may lose the
# signal.
_ipc_end() {
	_ipc_stat "$1" || return 0
	# With when it was started: another process may get its number.
	set -- "$1" "$2" "$ipc_started"
	while [ "$ipc_started" = "$3" ] && [ "$ipc_state" != Z ] && kill "$1"; do
		sleep "$2"
		_ipc_stat "$1" || break
	done
}

_ipc_each() {
	_ipc_begin ipc_each
	ipc_dead='' ipc_journal='' ipc_retries=0 ipc_type=''
	ipc_ending='' ipc_since='' ipc_look=yes
	trap ipc_ending=0 HUP TERM
	# Tells that these are there, which the process may also have from before it was forked.
	trap : URG
	_ipc_born
	while getopts :d:j:nr:t:w: ipc_option; do
		case $ipc_option in
		d) ipc_dead=$OPTARG ;;
		j) ipc_journal=$OPTARG ;;
		n) ipc_at_once=yes ;;
		r) ipc_retries=$OPTARG ;;
		t) ipc_type=$OPTARG ;;
		w) ipc_limit=${OPTARG:-wrong} ;;
		*) ipc_type=wrong ;;
		esac
	done
	shift $((OPTIND - 1)) && OPTIND=1
	case $ipc_retries in '' | *[!0-9]*) ipc_type=wrong ;; esac
	_ipc_hundredths && _ipc_is_type && [ $# -ge 2 ] || _ipc_usage '[-d QUEUE] [-j DIRECTORY]' \
		'[-n] [-r TIMES] [-t TYPE] [-w SECONDS] PATH COMMAND [ARGUMENT]...' || exit
	if [ -n "$ipc_dead" ]; then
		ipc_dead_kind=$(_ipc_find "$ipc_dead" && printf %s "$ipc_kind") || exit
	fi
	_ipc_find "$1" && _ipc_source || exit
	shift
	ipc_tag='' ipc_patience=$ipc_limit
	case $ipc_kind:$ipc_type in sysv/msg:[1-9]*) ipc_tag=$ipc_type ;; esac

	[ -z "$ipc_journal" ] || mkdir -p -- "$ipc_journal" || exit 69
	case $ipc_journal in '' | /*) ;; *) ipc_journal=./$ipc_journal ;; esac
	trap ipc_ending=130 INT
	# The file that the message in work is in, named after who works on it.
	ipc_place=$ipc_journal
	[ -n "$ipc_place" ] || ipc_place=$(trap '' INT && mktemp -d) || exit 69
	_ipc_stat self
	ipc_self=$ipc_pid.$ipc_started
	ipc_claim=$ipc_place/$ipc_self
	# What the shell itself has to say of processes that are killed.
	exec 8>&2 2>/dev/null
	ipc_code=0
	_ipc_reserve || ipc_code=69
	while [ "$ipc_code" -eq 0 ] && [ -z "$ipc_ending" ] && ! _ipc_orphaned; do
		_ipc_next
		case $? in
		0)
			# No `||` here: COMMAND would run as if there were no `set -e`.
			_ipc_work "$@"
			ipc_code=$?
			ipc_since=''
			continue
			;;
		75) ;;
		*)
			ipc_code=69
			break
			;;
		esac
		# As in ipc_recv.
		_ipc_now
		[ -n "$ipc_since" ] || ipc_since=$ipc_now
		# It looks after its caller now and then.
		ipc_limit=1000
		if [ -n "$ipc_patience" ]; then
			ipc_left=$((ipc_since + ipc_patience - ipc_now))
			[ "$ipc_left" -gt 0 ] || break
			[ "$ipc_left" -gt 1000 ] || ipc_limit=$ipc_left
		fi
		_ipc_await_in_background
		case $? in
		0) [ -z "$ipc_type" ] || sleep 0.1 ;;
		124) ;;
		*) [ -n "$ipc_ending" ] || ipc_code=69 ipc_ending=0 ;;
		esac
	done
	if [ -s "$ipc_claim" ]; then
		[ -n "$ipc_journal" ] || printf '%s: the message is in %s\n' "$ipc_me" "$ipc_claim" >&8
	else
		rm -f -- "$ipc_claim"
		[ -n "$ipc_journal" ] || rmdir -- "$ipc_place"
	fi
	[ "$ipc_ending" != 130 ] || {
		# So that a calling shell knows that it was Ctrl-C.
		trap - INT
		kill -INT "${ipc_self%.*}"
	}
	exit "$ipc_code"
}

# ipc_ftok PATH ID
#
# Prints the key that ftok(3) makes of a file and a number: the name of the object in sysv/. ID is a
# number as C has it (65, 0x41, 0101), of which the lowest eight bits count, or a character that is
# no digit (A), as in ftok(path, 'A').
ipc_ftok() {
	# Else 0101 would be a hundred and one.
	[ -z "${ZSH_VERSION-}" ] || emulate -L sh -o octalzeroes
	[ $# -eq 2 ] || { echo 'usage: ipc_ftok PATH ID' >&2; return 64; }
	case $2 in
	0[xX]?*) case ${2#??} in *[!0-9a-fA-F]*) set -- "$1" '' ;; esac ;;
	[!0-9]) set -- "$1" "$(LC_ALL=C printf '%d' "'$2")" ;;
	*[!0-9]* | 0*[89]*) set -- "$1" '' ;;
	esac
	[ -n "$2" ] || { echo 'ipc_ftok: ID is a number or one character' >&2; return 64; }
	# What stat(1) prints is st_dev and st_ino; ftok follows links.
	ipc_ftok_file=$(stat -L -c '%d %i' -- "$1") || return 69
	printf '0x%08x\n' "$(((${ipc_ftok_file#* } & 0xffff) |
		((${ipc_ftok_file% *} & 0xff) << 16) | (($2 & 0xff) << 24)))"
	unset ipc_ftok_file
}

# ipc_lock [-n] [-w SECONDS] NAME COMMAND [ARGUMENT]...
#
# Runs COMMAND, which may be a function, while it holds a unit of the semaphore NAME, and returns
# its exit status. However this ends, SIGKILL included, the unit is given back when the last of the
# processes that COMMAND has left is gone: they all have the open file (descriptor 9). Those who
# wait are served in their order. A semaphore that is missing is made, with the value 1. The mount
# is $IPCFS, or /mnt/ipc.
#
# -n            does not wait
# -w SECONDS    waits no longer
ipc_lock() {
	(_ipc_lock "$@")
	return
}

_ipc_lock() {
	_ipc_begin ipc_lock
	while getopts :nw: ipc_option; do
		case $ipc_option in
		n) ipc_at_once=yes ;;
		w) ipc_limit=${OPTARG:-wrong} ;;
		*) ipc_limit=wrong ;;
		esac
	done
	shift $((OPTIND - 1)) && OPTIND=1
	case ${1-} in '' | */* | . | ..) set -- ;; esac
	_ipc_hundredths && [ $# -ge 2 ] ||
		_ipc_usage '[-n] [-w SECONDS] NAME COMMAND [ARGUMENT]...' || exit
	ipc_control=${IPCFS:-/mnt/ipc}/ctl ipc_name=$1
	shift
	if ! [ -e "$ipc_control/sem/$ipc_name/hold" ]; then
		# Made with its value in one step; somebody else may be quicker.
		ipc_report=$(
			printf '%s\n' "$ipc_name" | LC_ALL=C sed -e :all -e '$!{N;b all' -e '}' \
				-e "s/[\\']/\\\\&/g" -e 's/\n/\\n/g' -e "s/.*/sem\/\$'&' value=1/" |
				LC_ALL=C dd of="$ipc_control/create" conv=notrunc,nocreat bs=1M 2>&1
		) || [ -e "$ipc_control/sem/$ipc_name/hold" ] || _ipc_report 1 || exit 69
	fi
	ipc_control=$ipc_control/sem/$ipc_name
	_ipc_born
	# What the shell itself has to say of processes that are killed.
	exec 8>&2 2>/dev/null
	ipc_watchdog='' ipc_tries=0
	while [ -n "$ipc_limit" ]; do
		_ipc_hold tryhold "$@"
		[ -z "$ipc_held" ] || exit "$ipc_code"
		# The shell has its own words for why not.
		ipc_report=$(LC_ALL=C dd if="$ipc_control/tryhold" count=0 2>&1)
		_ipc_report $? 2>&8
		case $?:$ipc_limit:$ipc_tries in
		75:0:*) exit 75 ;;
		75:*) break ;;
		0:*:9) _ipc_fail "$ipc_control/tryhold: this shell cannot open it" 2>&8 || exit ;;
		0:*) ipc_tries=$((ipc_tries + 1)) ;;
		*) exit 69 ;;
		esac
	done
	if [ -z "$ipc_limit" ]; then
		_ipc_hold hold "$@" 2>&8
		exit "$ipc_code"
	fi
	# A shell cannot be made to give up an open, but a process can: this one, ended by a watchdog,
	# which is gone before COMMAND begins.
	_ipc_left
	ipc_late=''
	trap 'ipc_late=yes' ALRM
	(
		read -r ipc_self _ </proc/self/stat
		{
			ipc_over='' ipc_sleep=''
			# Nothing milder: a child that is being forked may lose a signal that is caught.
			trap 'ipc_over=1; kill -KILL "$ipc_sleep"' TERM
			cd /
			sleep "$ipc_left" &
			ipc_sleep=$!
			[ -z "$ipc_over" ] || kill -KILL "$ipc_sleep"
			wait "$ipc_sleep"
			[ -z "$ipc_over" ] || exit
			# Should the others have been killed, their numbers may be somebody else's by now.
			read -r ipc_stat </proc/self/stat
			ipc_stat=${ipc_stat##*) ? }
			[ "${ipc_stat%% *}" = "$ipc_self" ] && read -r ipc_stat <"/proc/$ipc_self/stat"
			ipc_stat=${ipc_stat##*) ? }
			[ "${ipc_stat%% *}" != "$ipc_born" ] || kill -ALRM "$ipc_born" "$ipc_self"
		} >/dev/null 8>&- &
		ipc_watchdog=$!
		_ipc_hold hold "$@" 2>&8
		exit "$ipc_code"
	)
	ipc_code=$?
	[ -z "$ipc_late" ] || ipc_code=75
	exit "$ipc_code"
}

# HOLD COMMAND [ARGUMENT]...: opens this file and runs COMMAND, of which $code is the status then, and
# $held is set; else $code is 69, and the shell says why.
_ipc_hold() {
	ipc_file=$ipc_control/$1 ipc_held='' ipc_code=69
	shift
	{
		exec 2>/dev/null
		_ipc_call_off
		! _ipc_orphaned || exit
		_ipc_run "$@"
		ipc_code=$? ipc_held=yes
	} 9<"$ipc_file"
	[ -n "$ipc_held" ] || _ipc_call_off
}

# Ends the watchdog.
_ipc_call_off() {
	[ -n "$ipc_watchdog" ] || return 0
	kill "$ipc_watchdog"
	wait "$ipc_watchdog"
}

# What they share. The variables are those of the function's subshell.

# Prepares the subshell of the function NAME, which has options. COMMAND finds IFS, `set -e` and zsh's
# ERR_RETURN as the caller has them.
_ipc_begin() {
	ipc_errexit='' ipc_errreturn=''
	case $- in *e*) ipc_errexit=yes ;; esac
	set +e
	case ${ZSH_VERSION:+$(setopt)} in *errreturn*) ipc_errreturn=yes && unsetopt errreturn ;; esac
	ipc_has_ifs=${IFS+yes} ipc_ifs=${IFS-}
	IFS=' 	
'
	ipc_me=$1 ipc_limit='' ipc_at_once='' OPTIND=1
}

# Says how the function is to be called.
_ipc_usage() {
	echo "usage: $ipc_me $*" >&2
	return 64
}

# SENTENCE [STATUS]: says why it cannot be done.
_ipc_fail() {
	printf '%s: %s\n' "$ipc_me" "$1" >&2
	return "${2:-69}"
}

# Who runs the function, $born, and who has called it, $caller.
_ipc_born() {
	read -r ipc_born _ </proc/self/stat
	_ipc_parent
	ipc_caller=$ipc_parent
}

_ipc_parent() {
	read -r ipc_parent <"/proc/$ipc_born/stat"
	ipc_parent=${ipc_parent##*) ? }
	ipc_parent=${ipc_parent%% *}
}

# Whether the caller is gone.
_ipc_orphaned() {
	_ipc_parent
	[ "$ipc_parent" != "$ipc_caller" ]
}

# Runs COMMAND as the caller would, with the standard error that is kept as 8.
_ipc_run() {
	(
		if [ -n "$ipc_has_ifs" ]; then IFS=$ipc_ifs; else unset IFS; fi
		[ -z "$ipc_errreturn" ] || setopt errreturn
		[ -z "$ipc_errexit" ] || set -e
		"$@"
	) 2>&8 8>&-
}

# Makes seconds of $limit hundredths; nothing is no limit.
_ipc_hundredths() {
	case $ipc_limit in
	'') ;;
	*[!0-9.]* | *.*.* | .) return 1 ;;
	*)
		ipc_limit=$(LC_ALL=C printf %.2f "$ipc_limit")
		_ipc_strip "${ipc_limit%.*}${ipc_limit#*.}"
		ipc_limit=$ipc_stripped
		;;
	esac
	[ -z "$ipc_at_once" ] || ipc_limit=0
}

# The number without the zeros that it begins with: $stripped.
_ipc_strip() {
	ipc_stripped=$1
	while :; do
		case $ipc_stripped in
		0?*) ipc_stripped=${ipc_stripped#0} ;;
		*) return 0 ;;
		esac
	done
}

# The time in hundredths of a second: $now.
_ipc_now() {
	read -r ipc_now _ </proc/uptime
	ipc_now=${ipc_now%.*}${ipc_now#*.}
}

_ipc_is_type() {
	case ${ipc_type#-} in *[!0-9]*) return 1 ;; esac
	_ipc_strip "${ipc_type#-}"
	case $ipc_type in
	-) return 1 ;;
	-*) ipc_type=-$ipc_stripped ;;
	*) ipc_type=$ipc_stripped ;;
	esac
}

# Finds the queue PATH: its file, $queue, its directory in ctl/, $control, and its $kind.
_ipc_find() {
	ipc_queue=$1
	if [ -L "$ipc_queue" ]; then
		ipc_queue=$(readlink -f -- "$ipc_queue" && echo .)
		ipc_queue=${ipc_queue%??}
	fi
	case $ipc_queue in
	*/*) ipc_tree=${ipc_queue%/*}/ ;;
	*) ipc_tree=./ ;;
	esac
	case $ipc_tree in /* | ./* | ../*) ;; *) ipc_tree=./$ipc_tree ;; esac
	ipc_tree=$(cd -P "$ipc_tree" >/dev/null 2>&1 && printf %s. "$PWD")
	ipc_tree=${ipc_tree%.} ipc_name=${ipc_queue##*/} ipc_kind=''
	case $ipc_tree in
	*/sysv/msg) ipc_kind=sysv/msg ;;
	*/mq) ipc_kind=mq ;;
	esac
	ipc_control=${ipc_tree%/"$ipc_kind"}/ctl
	[ -n "$ipc_kind" ] && [ -n "$ipc_name" ] && [ -e "$ipc_control/create" ] ||
		_ipc_fail "$1: this is no message queue in a mount of ipcfs" || return
	ipc_queue=$ipc_tree/$ipc_name ipc_control=$ipc_control/$ipc_kind/$ipc_name
}

# The file to receive from: $file.
_ipc_source() {
	ipc_file=$ipc_queue
	[ -n "$ipc_type" ] || return 0
	[ "$ipc_kind" = sysv/msg ] || _ipc_fail "$ipc_queue: -t is for sysv/msg/" 64 || return
	ipc_file=$ipc_control/type/$ipc_type
}

# Writes all of standard input to $file at once; returns 1 if it is empty.
_ipc_put() {
	set -- of="$ipc_file" bs=1M iflag=fullblock conv=notrunc
	case $ipc_limit in
	'') ipc_report=$(LC_ALL=C dd "$@" 2>&1) ;;
	0) ipc_report=$(LC_ALL=C dd "$@" oflag=nonblock 2>&1) ;;
	*)
		# dd that is interrupted tells what it has written, unless it has been started with this
		# signal ignored, as in the background.
		_ipc_left
		ipc_report=$(LC_ALL=C timeout --foreground -s INT "$ipc_left" \
			env --default-signal=INT dd "$@" 2>&1)
		;;
	esac
	_ipc_report $?
	ipc_code=$?
	case $ipc_code:$ipc_report in
	0:*'0+1 records out'* | 75:*'0+1 records out'*) return 0 ;;
	0:*) return 1 ;;
	esac
	return "$ipc_code"
}

# Takes a message from $file, with these operands of dd.
_ipc_take() {
	{ ipc_report=$(LC_ALL=C dd if="$ipc_file" bs=1M "$@" 2>&1 >&3 3>&-) || _ipc_report $?; } 3>&1
}

# What it means that dd, or cat, has ended with this status and this $report.
_ipc_report() {
	case $1:$ipc_report in
	0:*) return 0 ;;
	124:* | *': Resource temporarily unavailable'*) return 75 ;;
	esac
	[ "$1" -le 128 ] || return "$1"
	ipc_report=${ipc_report#*: }
	_ipc_fail "${ipc_report%%
*}"
}

# The limit in seconds as timeout(1) has it: $left.
_ipc_left() {
	set -- "${ipc_limit:-0}"
	ipc_left=$(($1 / 100)).$(($1 / 10 % 10))$(($1 % 10))
}

# Waits until there is a message, or the limit is over.
_ipc_await() {
	_ipc_left
	ipc_report=$(LC_ALL=C timeout --foreground "$ipc_left" cat -- "$ipc_control/wait" 2>&1) ||
		_ipc_report $?
}

# The same so that a signal's trap runs at once; returns 124 when it is over.
_ipc_await_in_background() {
	_ipc_left
	(exec timeout --foreground "$ipc_left" cat -- "$ipc_control/wait" 2>&8 8>&-) &
	set -- $!
	[ -n "$ipc_ending" ] || wait "$1"
	set -- "$1" $?
	[ -z "$ipc_ending" ] || {
		# cat: timeout that gets the signal as it forks leaves it behind.
		_ipc_lives_until "$1" _ipc_has_child "$1"
		_ipc_end "${ipc_child:-$1}" 0.01
		return 124
	}
	return "$2"
}

# The process PID's $pid, its $state and when it was $started, which together are nobody else's, and
# what signals it has $ignored and $caught.
_ipc_stat() {
	ipc_pid='' ipc_state='' ipc_started='' ipc_ignored=0 ipc_caught=0
	{ IFS= read -r ipc_stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	ipc_pid=${ipc_stat%% *} ipc_stat=${ipc_stat##*) } ipc_state=${ipc_stat%% *}
	# The state is the third field.
	set -- 3
	while [ "$1" -lt 34 ]; do
		ipc_stat=${ipc_stat#* }
		set -- "$(($1 + 1))"
		case $1 in
		22) ipc_started=${ipc_stat%% *} ;;
		33) ipc_ignored=${ipc_stat%% *} ;;
		34) ipc_caught=${ipc_stat%% *} ;;
		esac
	done
}

# Whether PID has a $child, which is empty where the kernel does not tell.
_ipc_has_child() {
	ipc_child=''
	[ -e "/proc/$1/task/$1/children" ] || return 0
	# It ends with a space and without a newline.
	IFS=' ' read -r ipc_child _ <"/proc/$1/task/$1/children" || [ -n "$ipc_child" ]
}

# Whether that process ignores, or catches, the signal.
_ipc_ignores() {
	_ipc_has "$ipc_ignored" "$1"
}

_ipc_catches() {
	_ipc_has "$ipc_caught" "$1"
}

_ipc_has() {
	case $2 in
	INT) set -- "$1" 2 ;;
	QUIT) set -- "$1" 4 ;;
	TERM) set -- "$1" 16384 ;;
	URG) set -- "$1" 4194304 ;;
	esac
	[ "$(($1 & $2))" -ne 0 ]
}

# Makes $claim, and room for the longest message where it is: 7, a file without a name. What is in it
# is written over, for which there is room however full the disk is.
_ipc_reserve() {
	(umask 077 && : >|"$ipc_claim") 2>&8 || return
	exec 7<>"$ipc_claim"
	rm -f -- "$ipc_claim"
	{ head -c 1044480 /dev/zero >&7 && (umask 077 && : >|"$ipc_claim"); } ||
		[ -n "$ipc_ending" ] || _ipc_fail "$ipc_place: no room for a message" 2>&8
}

# Takes a message into $claim, from the journal what a worker has left that was killed.
_ipc_next() {
	[ -z "$ipc_look" ] || ! _ipc_adopt || return 0
	ipc_look=''
	ipc_report=$(
		# Nobody is to end them with the message in hand; they do not wait.
		trap '' HUP INT TERM
		{
			LC_ALL=C dd if="$ipc_file" bs=1M iflag=nonblock 2>&3 3>&- |
				tee -- "$ipc_claim" >&6 2>&8 3>&-
		} 3>&1 6<>/proc/self/fd/7
	)
	set -- $?
	# dd begins with its name where it has taken none.
	case $1:${ipc_report:=dd: dd has been killed} in
	0:dd:*)
		_ipc_report 1 2>&8
		set -- $?
		;;
	0:*) ;;
	*:dd:*) set -- 69 ;;
	*)
		_ipc_return
		return 69
		;;
	esac
	[ "$1" -ne 75 ] || ! _ipc_adopt || return 0
	return "$1"
}

# Gives the message back that there was no room for in $claim, and of which dd has made this $report.
_ipc_return() {
	true >|"$ipc_claim"
	ipc_report=${ipc_report##*records out?}
	(
		trap '' HUP INT TERM
		head -c "${ipc_report%% *}" </proc/self/fd/7 | _ipc_pass '' "$ipc_queue" "$ipc_kind"
	) && _ipc_fail "$ipc_place: no room for a message; it has been given back" 2>&8
}

_ipc_adopt() {
	[ -n "$ipc_journal" ] || return
	while IFS= read -r ipc_name; do
		case $ipc_name in
		"$ipc_self" | *[!0-9.]* | .* | *.*.* | *.) continue ;;
		*.*) ;;
		*) continue ;;
		esac
		_ipc_stat "${ipc_name%.*}"
		case $ipc_state in '' | Z | X) ;; *) [ "$ipc_started" != "${ipc_name#*.}" ] || continue ;; esac
		# Its dd may be at work still.
		sleep 0.1
		if ! [ -s "$ipc_journal/$ipc_name" ]; then
			rm -f -- "$ipc_journal/$ipc_name"
		elif mv -f -- "$ipc_journal/$ipc_name" "$ipc_claim"; then
			return 0
		fi
	done <<-END
		$(ls -- "$ipc_journal")
	END
	return 1
}

# Runs COMMAND for the message in $claim; returns other than 0 to end.
_ipc_work() {
	ipc_tries=0
	while :; do
		_ipc_run "$@" <"$ipc_claim" 7>&-
		ipc_status=$?
		case $ipc_status in 0 | 126 | 127) break ;; esac
		[ "$ipc_ending" != 130 ] || break
		[ "$ipc_tries" -lt "$ipc_retries" ] || break
		ipc_tries=$((ipc_tries + 1))
	done
	case $ipc_status:$ipc_ending:$ipc_dead in
	0:* | 126:* | 127:* | *:130:* | *:) ;;
	*) ! _ipc_pass -n "$ipc_dead" "$ipc_dead_kind" <"$ipc_claim" || ipc_status=0 ;;
	esac
	if [ "$ipc_status" -eq 0 ] || _ipc_pass -n "$ipc_queue" "$ipc_kind" <"$ipc_claim"; then
		# Not `:`, which ends a shell that cannot redirect it.
		true 2>&8 >|"$ipc_claim" || return 69
	fi
	return "$ipc_status"
}

# OPTION QUEUE KIND: sends a message to the queue.
_ipc_pass() {
	if [ "$3" = sysv/msg ] && [ -n "$ipc_tag" ]; then
		ipc_send ${1:+"$1"} -t "$ipc_tag" -- "$2" 2>&8
	else
		ipc_send ${1:+"$1"} -- "$2" 2>&8
	fi
	set -- $? "$2"
	[ "$1" -ne 75 ] || _ipc_fail "$2: the queue is full" 2>&8
	return "$1"
}
