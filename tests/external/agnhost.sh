#!/bin/sh
# What Kubernetes' storage tests ask of their image agnhost, for busybox: to wait, and to write and read files.
umask 0
text='mount-tester new file'

show() { # a file's content, in the words that the tests look for
	printf 'content of file "%s": ' "$1" && cat "$1" && echo
}

write() { # a file of these permissions
	printf '%s\n' "$text" >"$2" && chmod "$1" "$2" && show "$2"
}

wait_for() { # until a file has the text; "retry" says for how many seconds
	until [ "$(cat "$1" 2>&1)" = "$text" ]; do
		retry=$((retry - 1))
		[ "$retry" -gt 0 ] || return 1
		sleep 1
	done
	show "$1"
}

case $1 in
pause)
	trap 'exit 0' TERM INT
	while :; do sleep 1; done
	;;
mounttest) shift ;;
*)
	echo "agnhost: $1 is not among what stands in for it here" >&2
	exit 1
	;;
esac

retry=180 failed=0
for word; do
	case $word in --retry_time=*) retry=${word#*=} ;; esac
done
for word; do
	value=${word#*=}
	case $word in
	--new_file_0644=*) write 0644 "$value" ;;
	--new_file_0666=*) write 0666 "$value" ;;
	--file_mode=*) echo "mode of file \"$value\": $(stat -c %A "$value")" ;;
	--file_content=*) show "$value" ;;
	--file_content_in_loop=*) wait_for "$value" ;;
	--retry_time=*) ;;
	*)
		echo "agnhost: mounttest $word is not among what stands in for it here" >&2
		false
		;;
	esac || failed=1
done
exit $failed
