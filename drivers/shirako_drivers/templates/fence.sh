# Runs on the node, as the admin user, before every step of a handler. POSIX sh.
#
# Given by the driver, as assignments before this text: token, state (folder), epoch, phase, step
# and what the step needs. Everything is a function, and the last line of the program calls `main`:
# a program that was cut short on its way does nothing.
#
# What it prints, each after the token, which no tool and no guest knows: `+ text` for the story,
# `= name value` for the driver, `! text` for a failure of the unit, `? text` for what the lease
# asks for and no unit can give. The driver answers `= ready` with a line `go`; the end is
# `= done step`.

say() { printf '%s+ %s\n' "$token" "$*"; }
give() { printf '%s= %s\n' "$token" "$*"; }
fail() { printf '%s! %s\n' "$token" "$*"; exit 1; }
unsuitable() { printf '%s? %s\n' "$token" "$*"; exit 1; }

# Fields of /proc/PID/stat after the command's name, which may itself hold blanks and brackets.
stat_field() {
  sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f "$2"
}

# Processes of session $1 that are not yet dead (a zombie can do no harm).
session_members() {
  cat /proc/[0-9]*/stat 2>/dev/null |
    awk -v s="$1" '{ pid = $1; sub(/^.*\) /, ""); if ($4 == s && $1 !~ /[ZX]/) print pid }'
}

# Calls "$@", which prints process ids, and kills these until it prints none.
kill_all() {
  tries=0
  while pids=$("$@"); [ -n "$pids" ]; do
    [ "$tries" -lt 100 ] || return 1
    # One id a word.
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null
    tries=$((tries + 1))
    [ "$tries" -eq 1 ] || sleep 0.05
  done
}

# A session's number is not given to another process while one member lives. So: the leader lives and
# started when the record says, or it is gone and whoever bears the number still belongs to it.
recorded_session_lives() {
  [ "$held_machine" = "$machine" ] || return 1
  started=$(stat_field "$held_session" 20)
  [ -z "$started" ] || [ "$started" -eq "$held_start" ] || return 1
  [ -n "$(session_members "$held_session")" ]
}

end_recorded_session() {
  recorded_session_lives || return 0
  kill_all session_members "$held_session" || fail "an older handler still runs and cannot be killed"
  say "ended an older handler that still ran (epoch $held)"
}

# Leading zeros would make a number octal.
decimal() {
  number=$1
  while [ "${number#0}" != "$number" ] && [ "$number" != 0 ]; do number=${number#0}; done
  case $number in '' | *[!0-9]*) number=0 ;; esac
}

# One record of a fixed size, written over itself: that needs no space, so that a full disk stops no
# teardown. It holds the epoch, the phase within it (a set-up may not follow the teardown) and the
# session of the handler that runs.
read_record() {
  held=0 held_phase=0 held_session=0 held_start=0 held_machine=none
  [ ! -s "$state/fence" ] ||
    read -r held held_phase held_session held_start held_machine <"$state/fence"
  decimal "$held"; held=$number
  decimal "$held_phase"; held_phase=$number
  decimal "$held_session"; held_session=$number
  decimal "$held_start"; held_start=$number
  record="$held $held_phase $held_session $held_start $held_machine"
}

write_record() {
  printf '%019d %d %010d %020d %s\n' \
    "$epoch" "$phase" "$session" "$(stat_field "$session" 20)" "$machine" \
    1<>"$state/fence" || fail "the epoch cannot be written to $state"
}

# Whoever comes later wins, and later is who has a driver that still listens. A program may have
# been delayed on its way until another one of its epoch and phase had begun: it sees that the
# record changed since it asked, asks again, and ends when nobody answers.
take_turn() {
  seen=
  until
    read_record
    [ "$record" = "$seen" ]
  do
    exec 9>&-
    seen=$record
    give ready
    IFS= read -r word && [ "$word" = go ] || exit 1
    exec 9>>"$state/lock" || fail "the lock of $state cannot be opened"
    flock -w 20 9 || fail "the lock of $state is held by another handler"
  done
}

fence() {
  for tool in flock setsid awk sed cut readlink timeout; do
    command -v "$tool" >/dev/null || fail "the node lacks the command $tool"
  done
  umask 077
  mkdir -p "$state" || fail "the folder $state cannot be made"
  take_turn
  if [ "$epoch" -lt "$held" ]; then
    fail "stale: epoch $epoch, but the node holds epoch $held"
  fi
  if [ "$epoch" -eq "$held" ] && [ "$phase" -lt "$held_phase" ]; then
    if [ "$step" != probe ]; then
      fail "stale: epoch $epoch was torn down, it is not set up again"
    fi
    phase=$held_phase
  fi
  # A probe changes nothing: it neither ends nor replaces a handler of its own epoch.
  if [ "$step" != probe ] || [ "$epoch" -gt "$held" ]; then
    [ "$held_session" -eq "$session" ] || end_recorded_session
    write_record
  fi
  exec 9>&-
}

# Lines `fault what` for what the fence itself knows.
fence_differences() {
  read_record
  [ "$held_session" -eq "$session" ] || ! recorded_session_lives ||
    echo "left_over handler of epoch $held, still running"
  if [ "$held" -gt "$epoch" ]; then
    echo "changed epoch $held, newer than epoch $epoch of the ledger"
  elif [ -z "$lease" ]; then
    return
  elif [ "$held" -lt "$epoch" ]; then
    echo "missing note of epoch $epoch"
  elif [ "$held_phase" -gt 1 ]; then
    echo "changed epoch $epoch, which was torn down here"
  fi
}

# Looking needs no turn, and leaves no note.
survey() {
  differences | while IFS= read -r line; do give "$line"; done
}

# What a lease's unit still lacks after it was mended.
verify_mended() {
  left=$(differences | head -n 1)
  [ -z "$left" ] || fail "after mending: $left"
}

main() {
  session=$(stat_field $$ 4)
  machine=$(cat /proc/sys/kernel/random/boot_id)-$(readlink /proc/self/ns/pid | tr -dc 0-9)
  [ "$step" = survey ] || fence
  exec </dev/null
  "$step"
  give "done $step"
}
